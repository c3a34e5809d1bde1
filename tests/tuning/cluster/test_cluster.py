"""Studies on a real cluster of two nodes on this machine: as jobs, from a node, examined first."""

import json
from collections import Counter

import pytest


def test_a_submitted_study_runs_once_on_both_nodes_each_with_its_own_data(cluster, tool) -> None:
    storage = tool.folder / "studies"
    submit = ("submit", "small.yaml", "--storage", storage, "--address", cluster.dashboard)
    first = tool.run(*submit)
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip() == "proxytune-small-1"
    again = tool.run(*submit, "--follow")  # while it runs or has just ended well
    assert again.returncode == 0, again.stderr + again.stdout
    assert again.stdout.startswith("proxytune-small-")
    assert "4 of 4 trials (4 complete)" in tool.run("logs", "small", "--address", cluster.dashboard).stdout

    reports = tool.events("small", "report")
    assert Counter((event["trial"], event["step"]) for event in reports) == {
        (trial, step): 1 for trial in range(4) for step in (20, 40)
    }
    assert len({event["pid"] for event in reports}) >= 2
    prepared = [
        list((cluster.caches / node).glob("listops-mini-*/manifest.json")) for node in ("head", "worker")
    ]
    assert [len(found) for found in prepared] == [1, 1]
    one, other = (json.loads(found[0].read_text())["fingerprint"] for found in prepared)
    assert one == other

    listed = tool.json("status", "--address", cluster.dashboard)
    assert [(job["study"], job["status"]) for job in listed] == [("small", "SUCCEEDED")]
    larger = tool.run(*submit, "--set", "search.trials=5", "--follow")
    assert larger.returncode == 0, larger.stderr
    assert "5 of 5 trials" in larger.stdout
    assert len(tool.json("status", "small", "--address", cluster.dashboard)) >= 2
    other_spec = tool.run(*submit, "--set", "training.steps=60", "--follow")
    assert other_spec.returncode == 1
    assert "training.steps was 40, now 60" in other_spec.stdout


def test_stopping_a_job_leaves_a_checkpoint_of_every_trial_and_submit_goes_on(cluster, tool, until) -> None:
    storage = tool.folder / "studies"
    name = "stopped"
    long = ("--set", f"name={name}", "--set", "training.steps=40000", "--set", "training.eval_every=20000")
    submit = ("submit", "small.yaml", "--storage", storage, "--address", cluster.dashboard, *long)
    assert tool.run(*submit).stdout.strip() == f"proxytune-{name}-1"
    assert tool.run(*submit).stdout.strip() == f"proxytune-{name}-1"
    until(lambda: len(tool.events(name, "trial")) >= 2)
    until(lambda: "running" in tool.run("logs", name, "--address", cluster.dashboard).stdout)
    assert tool.run("stop", name, "--address", cluster.dashboard).returncode == 0
    until(lambda: tool.json("status", name, "--address", cluster.dashboard)[0]["status"] == "STOPPED")
    shown = tool.json("show", name, "--storage", storage)
    assert set(shown["outcomes"]) == {"interrupted"}
    (end,) = tool.events(name, "study_end")
    assert end["status"] == "interrupted"
    trials = storage / name / "trials"
    assert len(list(trials.glob("*/step-*/manifest.json"))) >= 1
    refused = tool.run("stop", name, "--address", cluster.dashboard)
    assert refused.returncode == 2
    assert "STOPPED" in refused.stderr


def test_the_doctor_is_content_with_this_cluster_and_names_what_is_wrong_with_a_sick_node(
    cluster, tool
) -> None:
    storage = tool.folder / "studies"
    examine = ("doctor", "small.yaml", "--storage", storage, "--set", "name=examined")
    found = tool.json(*examine, "--address", cluster.address)
    assert {finding["state"] for finding in found} == {"ok"}
    checks = Counter(finding["check"] for finding in found)
    per_node = dict.fromkeys(("versions", "resources", "clock", "data", "storage"), 2)
    assert checks == per_node | dict.fromkeys(("token", "room", "database", "mlflow"), 1)
    assert list(storage.glob(".doctor-*")) == []

    sick = cluster.caches / "sick"
    (sick / "torch-9.9.9.dist-info").mkdir(parents=True)
    (sick / "torch-9.9.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n"
    )
    (sick / "sitecustomize.py").write_text("import time\nnow = time.time\ntime.time = lambda: now() + 3600\n")
    (sick / "cache").write_text("a file where the cache should be")
    node = cluster.add(
        "sick",
        cpus=0,
        gpus=2,  # Ray is told of GPUs that torch, built without CUDA, cannot use
        environment={"PYTHONPATH": str(sick), "PROXYTUNE_CACHE": str(sick / "cache")},
    )
    try:
        asked = ("--set", "resources.gpu=4", "--set", "resources.max_concurrent=9")
        done = tool.run(
            *examine, *asked, "--address", cluster.dashboard, "--json"
        )  # from elsewhere, as a job of its own
        assert done.returncode == 1
        red = {
            (finding["node"].split()[-1], finding["check"]): finding["text"]
            for finding in json.loads(done.stdout)
            if finding["state"] == "red"
        }
        name = node.id[:6]
        assert set(red) == {
            (name, "versions"),
            (name, "clock"),
            (name, "resources"),
            (name, "data"),
            ("cluster", "room"),
        }
        assert "torch 9.9.9" in red[name, "versions"]
        assert "+3600" in red[name, "clock"] or "+3599" in red[name, "clock"]
        assert "without CUDA" in red[name, "resources"]
        assert "PROXYTUNE_CACHE" in red[name, "data"]
        assert "resources.gpu: 4 is more than a node has here (2)" in red["cluster", "room"]
    finally:
        node.kill()


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["run", "small.yaml", "--address", "ADDRESS"], {"RAY_AUTH_TOKEN": "wrong"}, ["refuses the token"]),
        (
            ["submit", "small.yaml", "--address", "DASHBOARD"],
            {"RAY_AUTH_TOKEN": "wrong"},
            ["refuses the token"],
        ),
        (
            ["submit", "small.yaml", "--address", "DASHBOARD"],
            {},
            ["storage: studies is relative", "--storage"],
        ),
        (["run", "small.yaml", "--address", "GCS-IS-DASHBOARD"], {}, ["no Ray cluster at", "6379"]),
        (
            ["run", "small.yaml", "--address", "ADDRESS", "--set", "resources.gpu=3"],
            {},
            ["resources.gpu: 3 is more than a node has here (0)"],
        ),
        (["logs", "smal", "--address", "DASHBOARD"], {}, ["smal was not submitted"]),
        (["stop", "smal", "--address", "DASHBOARD"], {}, ["smal was not submitted"]),
    ],
)
def test_what_a_cluster_refuses_is_one_line(cluster, tool, arguments, environment, words) -> None:
    places = {
        "ADDRESS": cluster.address,
        "DASHBOARD": cluster.dashboard,
        "GCS-IS-DASHBOARD": cluster.dashboard.removeprefix("http://"),
    }
    done = tool.run(*(places.get(argument, argument) for argument in arguments), **environment)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
