"""The batch script on a real Slurm cluster: end of the driver, requeueing, and two jobs with Ray on one node."""

import json
import sys
from pathlib import Path

import pytest

from tests.deploy.slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FAKE_PYTHON = """#!/bin/sh
# Replaces the interpreter: a Ray that has started at once, and a driver that runs the shell script $DRIVER.
case "$*" in
*socket*) echo 20000 ;;
*ray.scripts*)
    [ "$DRIVER" != "no ray" ] || exit 9
    for word; do case $word in --temp-dir=*) folder=${word#*=} ;; esac; done
    mkdir -p "$folder" && echo 127.0.0.1:1 >"$folder/ray_current_cluster"
    exec sleep 1000
    ;;
*) exec sh -c "$DRIVER" ;;
esac
"""
RUN_UNTIL_TERM = 'trap "exit 75" TERM; touch "$SLURM_JOB_ID.up"; while :; do sleep 0.1; done'
RUN_UNTIL_SECOND_TERM = """
n=0; trap 'n=$((n + 1)); [ $n -lt 2 ] || exit 75' TERM; touch "$SLURM_JOB_ID.up"; while :; do sleep 0.1; done
"""
FINISH_AFTER_REQUEUE = f"[ -z $SLURM_RESTART_COUNT ] || exit 0; {RUN_UNTIL_TERM}"


def submit(slurm: SlurmCluster, deploy: Path, *options: str, **environment: str) -> str:
    script = deploy / "slurm" / "study.sbatch"
    command = ["sbatch", "--parsable", "--output=%j.out", *options, script, "study.yaml"]
    return slurm.run(*command, **environment)


@pytest.fixture
def fake_python(slurm: SlurmCluster) -> str:
    path = slurm.folder / "fake-python"
    path.write_text(FAKE_PYTHON)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("driver", "options", "signal", "state", "exit_code", "restarts", "message"),
    [
        ("exit 0", [], None, "COMPLETED", "0:0", "0", "ended with code 0"),
        ("exit 2", [], None, "FAILED", "2:0", "0", "ended with code 2"),
        ("exit 75", [], None, "FAILED", "75:0", "0", "ended with code 75"),  # proxytune stop
        ("exit 3", [], None, "FAILED", "3:0", "0", "another driver holds the study, so this job ends"),
        ("no ray", [], None, "FAILED", "1:0", "0", "(attempt 3 of 3)"),
        (FINISH_AFTER_REQUEUE, [], "USR1", "COMPLETED", "0:0", "1", "ended with code 75 after USR1"),
        (RUN_UNTIL_TERM, [], "TERM", "FAILED", "75:0", "0", "ended with code 75 after TERM"),
        (RUN_UNTIL_SECOND_TERM, [], "all", "CANCELLED", "75:0", "0", "ended with code 75 after TERM"),
        (RUN_UNTIL_TERM, ["--no-requeue"], "USR1", "FAILED", "75:0", "0", "submit it again to resume"),
    ],
    ids=[
        "finished",
        "invalid input",
        "stopped",
        "study held",
        "no ray",
        "time limit",
        "scancel --batch",
        "scancel",
        "no requeue",
    ],
)
def test_job_ends_or_is_requeued_according_to_the_drivers_end(
    slurm: SlurmCluster, deploy: Path, fake_python: str, driver: str, options: list[str], signal: str | None,
    state: str, exit_code: str, restarts: str, message: str,
) -> None:  # fmt: skip
    job = submit(slurm, deploy, *options, PYTHON=fake_python, DRIVER=driver)
    if signal is not None:
        slurm.wait_until((slurm.folder / f"{job}.up").exists)
        slurm.run("scancel", *([] if signal == "all" else ["--batch", f"--signal={signal}"]), job)
    slurm.wait_until(lambda: slurm.ended(job))
    record = slurm.job(job)
    output = (slurm.folder / f"{job}.out").read_text()
    assert (record["JobState"], record["ExitCode"], record["Restarts"]) == (state, exit_code, restarts), (
        output
    )
    assert message in output
    assert list(slurm.scratch.iterdir()) == []


def test_array_tasks_run_one_at_a_time_and_each_is_requeued(
    slurm: SlurmCluster, deploy: Path, fake_python: str
) -> None:
    driver = FINISH_AFTER_REQUEUE.replace("$SLURM_JOB_ID.up", "task-$SLURM_ARRAY_TASK_ID.up")
    array = submit(slurm, deploy, "--array=1-2%1", PYTHON=fake_python, DRIVER=driver)
    for task in (1, 2):  # the second starts when the first is requeued
        slurm.wait_until((slurm.folder / f"task-{task}.up").exists)
        slurm.run("scancel", "--batch", "--signal=USR1", f"{array}_{task}")
    for task in (1, 2):
        slurm.wait_until(lambda task=task: slurm.ended(f"{array}_{task}"))
        record = slurm.job(f"{array}_{task}")
        assert (record["JobState"], record["Restarts"]) == ("COMPLETED", "1")


def test_preempted_job_terminates_its_driver_and_is_requeued(
    slurm: SlurmCluster, deploy: Path, fake_python: str
) -> None:
    job = submit(slurm, deploy, "--nodes=2", "--exclusive", PYTHON=fake_python, DRIVER=FINISH_AFTER_REQUEUE)
    slurm.wait_until((slurm.folder / f"{job}.up").exists)
    urgent = slurm.run(
        "sbatch", "--parsable", "--partition=urgent", "--exclusive", "--nodes=2", "--wrap=exit"
    )
    slurm.wait_until(lambda: slurm.ended(urgent) and slurm.ended(job))
    record = slurm.job(job)
    output = (slurm.folder / f"{job}.out").read_text()
    assert (record["JobState"], record["Restarts"]) == ("COMPLETED", "1"), output
    assert "ended with code 75 after TERM" in output


DRIVER = """
import json, os, sys, time
from pathlib import Path
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from proxytune.tuning.cluster.session import find_cluster
from proxytune.tuning.errors import InputError

folder, address, job = Path.cwd(), sys.argv[-1], os.environ["SLURM_JOB_ID"]
ray.init(find_cluster(address), log_to_driver=False, logging_level=40)
while len(ray.nodes()) < int(os.environ["SLURM_JOB_NUM_NODES"]):
    time.sleep(0.2)

@ray.remote(num_gpus=1)
def node_and_gpu():
    return os.environ["SLURMD_NODENAME"], os.environ["CUDA_VISIBLE_DEVICES"]

strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes()]
record = {
    "address": address,
    "resources": [(node["Resources"]["CPU"], node["Resources"]["GPU"]) for node in ray.nodes()],
    "gpus": sorted(ray.get([node_and_gpu.options(scheduling_strategy=each).remote() for each in strategies])),
}
(folder / f"{job}.part").write_text(json.dumps(record))
(folder / f"{job}.part").rename(folder / f"{job}.json")
while len(list(folder.glob("*.json"))) < 2:
    time.sleep(0.2)
(other,) = [json.loads(path.read_text()) for path in folder.glob("*.json") if path.stem != job]
try:
    find_cluster(other["address"])
except InputError as error:
    print(error)
(folder / f"{job}.done").touch()
while len(list(folder.glob("*.done"))) < 2:
    time.sleep(0.2)
"""
PYTHON_WITH_TEST_DRIVER = """#!/bin/sh
case "$*" in
*proxytune.tuning*) exec {python} -P driver.py "$@" ;;
*) exec {python} "$@" ;;
esac
"""


@pytest.mark.parametrize("gpus", ["--gpus-per-task=1", "--gpus-per-node=1"])
def test_two_jobs_on_one_node_have_separate_ray_clusters_and_gpus(
    slurm: SlurmCluster, deploy: Path, gpus: str
) -> None:
    for path in (*slurm.folder.glob("*.json"), *slurm.folder.glob("*.done")):
        path.unlink()
    (slurm.folder / "driver.py").write_text(DRIVER)
    python = slurm.folder / "python"
    python.write_text(PYTHON_WITH_TEST_DRIVER.format(python=sys.executable))
    python.chmod(0o755)
    environment = {"PYTHON": str(python), "OMP_NUM_THREADS": "1"}
    first = submit(slurm, deploy, "--nodes=2", "--cpus-per-task=1", gpus, **environment)
    slurm.wait_until(lambda: slurm.job(first)["JobState"] == "RUNNING")
    second = submit(slurm, deploy, "--nodelist=n1", "--cpus-per-task=1", gpus, **environment)
    slurm.wait_until(lambda: slurm.ended(first) and slurm.ended(second))
    records = {job: json.loads((slurm.folder / f"{job}.json").read_text()) for job in (first, second)}
    assert records[first]["resources"] == [[1.0, 1.0]] * 2
    assert records[second]["resources"] == [[1.0, 1.0]]
    assert [name for name, _ in records[first]["gpus"]] == ["n1", "n2"]
    assert [name for name, _ in records[second]["gpus"]] == ["n1"]
    assert records[first]["gpus"][0][1] != records[second]["gpus"][0][1]  # the two GPUs of n1
    for job in (first, second):
        assert slurm.job(job)["JobState"] == "COMPLETED"
        assert "rejected the token" in (slurm.folder / f"{job}.out").read_text()
