"""A cluster of one node: what it takes no job from, and how a job ends that was asked to."""

import re
from collections.abc import Iterator

import pytest

from proxytune.tuning.cluster.jobs import Jobs
from tests.tuning.cluster.nodes import TOKEN, RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def head() -> Iterator[RayCluster]:
    running = RayCluster()
    try:
        yield running
    finally:
        running.close()


def test_job_of_a_stopped_study_succeeds(head, tool, until) -> None:
    jobs = Jobs(head.dashboard, TOKEN)
    storage = tool.folder / "studies"
    options = ("--set", "name=asked", "--set", "training.steps=100000", "--set", "search.trials=1")
    where = ("--storage", storage, "--address", head.dashboard)
    following = tool.start(tool.folder / "log", "submit", "small.yaml", *options, *where, "--follow")
    until(lambda: tool.events("asked", "trial"))
    assert tool.run("stop", "asked", "--storage", storage, "--now").returncode == 0
    until(lambda: jobs.status("asked") not in ("PENDING", "RUNNING"))
    assert jobs.status("asked") == "SUCCEEDED"
    assert following.wait(300) == 75, "its budget is not met"
    logs = " ".join(jobs.logs("asked").split())
    assert re.search(r"stopped \(requested by [^)]+\); the same command resumes it", logs), logs


def test_cluster_with_a_folder_open_to_other_users_is_rejected(head, tool) -> None:
    head.folder.chmod(0o755)
    try:
        done = tool.run("run", "small.yaml", "--set", "name=refused", "--address", head.address)
        doctor = tool.run("doctor", "--address", head.address)
        where = ("--storage", tool.folder / "studies", "--address", head.dashboard)
        submitted = tool.run("submit", "small.yaml", "--set", "name=refused", *where)
    finally:
        head.folder.chmod(0o700)
    assert (done.returncode, doctor.returncode, submitted.returncode) == (2, 1, 2)
    assert Jobs(head.dashboard, TOKEN).status("refused") is None, "the cluster got no package"
    for error in (done.stderr, doctor.stderr, submitted.stderr):
        assert error.count("proxytune: ") == 1, error
        assert "can replace the code that Ray runs from" in " ".join(error.split()), error
