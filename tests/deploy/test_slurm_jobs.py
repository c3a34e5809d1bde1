"""The batch script on a real Slurm: what it does at the end of a driver, and Ray beside another job's Ray."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STAND_IN = """#!/bin/sh
# In the place of Python: Ray that is up at once, and a driver that is a shell script.
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
UNTIL_TERM = 'trap "exit 75" TERM; touch "$SLURM_JOB_ID.up"; while :; do sleep 0.1; done'
UNTIL_TWO_TERMS = """
n=0; trap 'n=$((n + 1)); [ $n -lt 2 ] || exit 75' TERM; touch "$SLURM_JOB_ID.up"; while :; do sleep 0.1; done
"""
ONCE = f"[ -z $SLURM_RESTART_COUNT ] || exit 0; {UNTIL_TERM}"


def submit(slurm: Any, deploy: Path, *options: str, **environment: str) -> str:
    script = deploy / "slurm" / "study.sbatch"
    command = ["sbatch", "--parsable", "--output=%j.out", *options, script, "study.yaml"]
    return str(slurm.tell(*command, **environment))


@pytest.mark.parametrize(
    ("driver", "options", "signal", "state", "exit_code", "restarts", "words"),
    [
        ("exit 0", [], None, "COMPLETED", "0:0", "0", "ended with code 0"),
        ("exit 2", [], None, "FAILED", "2:0", "0", "ended with code 2"),
        ("exit 75", [], None, "FAILED", "75:0", "0", "ended with code 75"),  # proxytune stop
        ("exit 3", [], None, "FAILED", "3:0", "0", "another driver holds the study, so this job ends"),
        ("no ray", [], None, "FAILED", "1:0", "0", "(attempt 3 of 3)"),
        (ONCE, [], "USR1", "COMPLETED", "0:0", "1", "ended with code 75 after USR1"),
        (UNTIL_TERM, [], "TERM", "FAILED", "75:0", "0", "ended with code 75 after TERM"),
        (UNTIL_TWO_TERMS, [], "all", "CANCELLED", "75:0", "0", "ended with code 75 after TERM"),
        (UNTIL_TERM, ["--no-requeue"], "USR1", "FAILED", "75:0", "0", "submit it again to resume"),
    ],
    ids=[
        "done",
        "wrong",
        "stopped",
        "held",
        "no ray",
        "time limit",
        "scancel --batch",
        "scancel",
        "no requeue",
    ],
)
def test_the_job_ends_or_returns_to_the_queue_as_its_driver_ended(
    slurm: Any, deploy: Path, driver: str, options: list[str], signal: str | None,
    state: str, exit_code: str, restarts: str, words: str,
) -> None:  # fmt: skip
    python = slurm.folder / "stand-in"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    job = submit(slurm, deploy, *options, PYTHON=str(python), DRIVER=driver)
    if signal is not None:
        slurm.until((slurm.folder / f"{job}.up").exists)
        slurm.tell("scancel", *([] if signal == "all" else ["--batch", f"--signal={signal}"]), job)
    slurm.until(lambda: slurm.ended(job))
    facts = slurm.job(job)
    said = (slurm.folder / f"{job}.out").read_text()
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == (state, exit_code, restarts), said
    assert words in said
    assert list(slurm.scratch.iterdir()) == []


def test_the_tasks_of_an_array_take_turns_and_each_returns_to_the_queue(slurm: Any, deploy: Path) -> None:
    python = slurm.folder / "stand-in"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    driver = ONCE.replace("$SLURM_JOB_ID.up", "task-$SLURM_ARRAY_TASK_ID.up")
    array = submit(slurm, deploy, "--array=1-2%1", PYTHON=str(python), DRIVER=driver)
    for task in (1, 2):  # the second begins when the first waits in the queue
        slurm.until((slurm.folder / f"task-{task}.up").exists)
        slurm.tell("scancel", "--batch", "--signal=USR1", f"{array}_{task}")
    for task in (1, 2):
        slurm.until(lambda task=task: slurm.ended(f"{array}_{task}"))
        facts = slurm.job(f"{array}_{task}")
        assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1")


def test_a_preempted_job_ends_its_driver_and_is_requeued_by_slurm(slurm: Any, deploy: Path) -> None:
    python = slurm.folder / "stand-in"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    job = submit(slurm, deploy, "--nodes=2", "--exclusive", PYTHON=str(python), DRIVER=ONCE)
    slurm.until((slurm.folder / f"{job}.up").exists)
    urgent = slurm.tell(
        "sbatch", "--parsable", "--partition=urgent", "--exclusive", "--nodes=2", "--wrap=exit"
    )
    slurm.until(lambda: slurm.ended(urgent) and slurm.ended(job))
    facts = slurm.job(job)
    said = (slurm.folder / f"{job}.out").read_text()
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), said
    assert "ended with code 75 after TERM" in said


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
def seen():
    return os.environ["SLURMD_NODENAME"], os.environ["CUDA_VISIBLE_DEVICES"]

on = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes()]
facts = {
    "address": address,
    "room": [(node["Resources"]["CPU"], node["Resources"]["GPU"]) for node in ray.nodes()],
    "gpus": sorted(ray.get([seen.options(scheduling_strategy=where).remote() for where in on])),
}
(folder / f"{job}.part").write_text(json.dumps(facts))
(folder / f"{job}.part").rename(folder / f"{job}.json")
while len(list(folder.glob("*.json"))) < 2:
    time.sleep(0.2)
(other,) = [json.loads(path.read_text()) for path in folder.glob("*.json") if path.stem != job]
try:
    find_cluster(other["address"])
except InputError as error:
    print(error)
(folder / f"{job}.over").touch()
while len(list(folder.glob("*.over"))) < 2:
    time.sleep(0.2)
"""
ONLY_THE_DRIVER = """#!/bin/sh
case "$*" in
*proxytune.tuning*) exec {python} -P driver.py "$@" ;;
*) exec {python} "$@" ;;
esac
"""


@pytest.mark.parametrize("gpus", ["--gpus-per-task=1", "--gpus-per-node=1"])
def test_two_jobs_share_a_node_with_a_ray_and_gpus_of_their_own(slurm: Any, deploy: Path, gpus: str) -> None:
    for path in (*slurm.folder.glob("*.json"), *slurm.folder.glob("*.over")):
        path.unlink()
    (slurm.folder / "driver.py").write_text(DRIVER)
    python = slurm.folder / "python"
    python.write_text(ONLY_THE_DRIVER.format(python=sys.executable))
    python.chmod(0o755)
    given = {"PYTHON": str(python), "OMP_NUM_THREADS": "1"}
    wide = submit(slurm, deploy, "--nodes=2", "--cpus-per-task=1", gpus, **given)
    slurm.until(lambda: slurm.job(wide)["JobState"] == "RUNNING")
    beside = submit(slurm, deploy, "--nodelist=n1", "--cpus-per-task=1", gpus, **given)
    slurm.until(lambda: slurm.ended(wide) and slurm.ended(beside))
    facts = {job: json.loads((slurm.folder / f"{job}.json").read_text()) for job in (wide, beside)}
    assert facts[wide]["room"] == [[1.0, 1.0]] * 2
    assert facts[beside]["room"] == [[1.0, 1.0]]
    assert [name for name, _ in facts[wide]["gpus"]] == ["n1", "n2"]
    assert [name for name, _ in facts[beside]["gpus"]] == ["n1"]
    assert facts[wide]["gpus"][0][1] != facts[beside]["gpus"][0][1]  # of the two on n1
    for job in (wide, beside):
        assert slurm.job(job)["JobState"] == "COMPLETED"
        assert "rejected the token" in (slurm.folder / f"{job}.out").read_text()
