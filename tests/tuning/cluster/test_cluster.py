"""Studies on a real two-node cluster on this machine: `submit`, `run --address` and `doctor`."""

import json
from collections import Counter

import pytest

from proxytune.tuning.cluster.jobs import Jobs
from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.study_files import read_study
from tests.tuning.cluster.nodes import TOKEN

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1500)]


def test_job_is_submitted_once_stops_with_checkpoints_and_resumes_on_both_nodes(cluster, tool, until) -> None:
    jobs = Jobs(cluster.dashboard, TOKEN)
    storage = tool.folder / "studies"
    # Long enough that the first trial still runs when the other node's worker is ready; otherwise one worker runs both.
    options = ("training.steps=2400", "training.eval_every=1200", "search.trials=2")
    spec = read_study(str(tool.folder / "small.yaml"), [*options, f"storage={json.dumps(str(storage))}"])
    assert jobs.status("small") is None
    assert jobs.submit(spec) == "proxytune-small-1"
    assert jobs.submit(spec) == "proxytune-small-1"

    until(lambda: len(tool.events("small", "trial")) == 2)
    prepared = until(lambda: [*cluster.caches.glob("*/listops-mini-*/manifest.json")][1:] and True)
    assert prepared
    status = ("status", "small", "--address", cluster.dashboard)
    until(lambda: "0 of 2 trials ended" in tool.json(*status)[0]["last_line"])
    jobs.stop("small")
    until(lambda: jobs.status("small") == "STOPPED")
    (end,) = tool.events("small", "study_end")  # written by the driver's SIGTERM handler
    assert end.status == "interrupted"
    before = tool.events("small", "end")
    assert {event.outcome for event in before} <= {"interrupted", "complete"}
    for event in before:
        if event.outcome == "interrupted":
            manifests = (storage / "small" / "trials" / str(event.trial)).glob("step-*/manifest.json")
            assert max([0, *(json.loads(path.read_text())["step"] for path in manifests)]) >= event.step
    with pytest.raises(InputError, match="its last job is STOPPED"):
        jobs.stop("small")

    arguments = [part for option in options for part in ("--set", option)]
    done = tool.run(
        "submit", "small.yaml", *arguments, "--storage", storage, "--address", cluster.dashboard, "--follow"
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith("proxytune-small-2\n")
    assert "2 of 2 trials (2 complete)" in done.stdout
    assert done.stdout.partition("\n")[2] == jobs.logs("small")
    assert [(job.attempt, job.status) for job in jobs.jobs()] == [(1, "STOPPED"), (2, "SUCCEEDED")]
    reports = Counter((event.trial, event.step) for event in tool.events("small", "report"))
    assert reports == {(trial, step): 1 for trial in range(2) for step in (1200, 2400)}
    found = [[*(cluster.caches / node).glob("listops-mini-*/manifest.json")] for node in ("head", "worker")]
    assert [len(manifests) for manifests in found] == [1, 1]
    head, worker = (json.loads(manifests[0].read_text())["fingerprint"] for manifests in found)
    assert head == worker


def test_doctor_reports_ok_for_a_healthy_cluster(cluster, tool) -> None:
    storage = tool.folder / "studies"
    found = tool.json("doctor", "small.yaml", "--storage", storage, "--address", cluster.address)
    assert {finding["state"] for finding in found} == {"ok"}
    per_node = dict.fromkeys(("versions", "resources", "folder", "clock", "data", "storage"), 2)
    assert Counter(finding["check"] for finding in found) == per_node | dict.fromkeys(
        ("token", "room", "database", "mlflow"), 1
    )
    assert list(storage.glob(".doctor-*")) == []


def test_job_errors_are_one_line(cluster, tool) -> None:
    with pytest.raises(InputError, match="rejected the token") as wrong:
        Jobs(cluster.dashboard, "wrong")
    jobs = Jobs(cluster.dashboard, TOKEN)
    with pytest.raises(InputError, match=r"storage: .*studies is relative") as relative:
        jobs.submit(read_study(str(tool.folder / "small.yaml")))
    with pytest.raises(InputError, match="smal was not submitted") as unknown:
        jobs.stop("smal")
    with pytest.raises(InputError, match="smal was not submitted"):
        list(jobs.follow("smal"))
    for caught in (wrong, relative, unknown):
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {"RAY_AUTH_TOKEN": "wrong"}, "rejected the token"),
        (["--set", "resources.gpu=3"], {}, "resources.gpu: 3 is more than the largest node has (0)"),
    ],
)
def test_driver_errors_on_a_cluster_are_one_line(cluster, tool, arguments, environment, words: str) -> None:
    done = tool.run(
        *("run", "small.yaml", "--set", "name=rejected", "--address", cluster.address, *arguments),
        **environment,
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert words in lines[0]


def test_doctor_reports_each_fault_of_a_misconfigured_node(cluster, tool) -> None:
    folder = cluster.caches / "misconfigured"
    (folder / "torch-9.9.9.dist-info").mkdir(parents=True)
    metadata = "Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n"
    (folder / "torch-9.9.9.dist-info" / "METADATA").write_text(metadata)
    one_hour_ahead = "import time\nnow = time.time\ntime.time = lambda: now() + 3600\n"
    (folder / "sitecustomize.py").write_text(one_hour_ahead)
    (folder / "cache").write_text("a file in place of the cache folder")
    node = cluster.add(
        "misconfigured",
        cpus=0,
        gpus=2,  # GPUs that torch, built without CUDA, cannot use
        environment={"PYTHONPATH": str(folder), "PROXYTUNE_CACHE": str(folder / "cache")},
    )
    try:
        done = tool.run(
            *("doctor", "small.yaml", "--storage", tool.folder / "studies", "--set", "resources.gpu=4"),
            *("--set", "resources.max_concurrent=9", "--address", cluster.dashboard, "--json"),
        )
        assert done.returncode == 1
        red = {
            (finding["node"].split()[-1], finding["check"]): finding["text"]
            for finding in json.loads(done.stdout)
            if finding["state"] == "red"
        }
        name = node.id[:6]
        of_the_node = {(name, check) for check in ("versions", "clock", "resources", "data")}
        assert set(red) == of_the_node | {("cluster", "room")}
        assert "torch 9.9.9" in red[name, "versions"]
        assert 3590 < float(red[name, "clock"].split()[0]) < 3610
        assert "without CUDA" in red[name, "resources"]
        assert "PROXYTUNE_CACHE" in red[name, "data"]
        assert "resources.gpu: 4 is more than the largest node has (2)" in red["cluster", "room"]
    finally:
        node.kill()


def test_data_prepare_runs_on_the_given_cluster(cluster, tool) -> None:
    options = ("--option", "train_examples=6000", "--address", cluster.address)
    facts = tool.json("data", "prepare", "listops-mini", *options)
    assert facts["examples"]["train"] == 6000
    assert any(task["name"] == "_apply" for task in cluster.state("tasks"))
