"""A one-node cluster: the job of a stopped study, and a session folder that other users can write."""

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
    options = ("--set", "name=stopped", "--set", "training.steps=100000", "--set", "search.trials=1")
    where = ("--storage", storage, "--address", head.dashboard)
    following = tool.start(tool.folder / "log", "submit", "small.yaml", *options, *where, "--follow")
    until(lambda: tool.events("stopped", "trial"))
    assert tool.run("stop", "stopped", "--storage", storage, "--now").returncode == 0
    until(lambda: jobs.status("stopped") not in ("PENDING", "RUNNING"))
    assert jobs.status("stopped") == "SUCCEEDED"
    assert following.wait(300) == 75, "the budget is not spent"
    logs = " ".join(jobs.logs("stopped").split())
    assert re.search(r"stopped \(requested by [^)]+\); the same command resumes it", logs), logs


def test_cluster_with_a_folder_open_to_other_users_is_rejected(head, tool) -> None:
    head.folder.chmod(0o755)
    try:
        run = tool.run("run", "small.yaml", "--set", "name=rejected", "--address", head.address)
        doctor = tool.run("doctor", "--address", head.address)
        where = ("--storage", tool.folder / "studies", "--address", head.dashboard)
        submit = tool.run("submit", "small.yaml", "--set", "name=rejected", *where)
    finally:
        head.folder.chmod(0o700)
    assert (run.returncode, doctor.returncode, submit.returncode) == (2, 1, 2)
    assert Jobs(head.dashboard, TOKEN).status("rejected") is None, "no package was uploaded"
    for error in (run.stderr, doctor.stderr, submit.stderr):
        assert error.count("proxytune: ") == 1, error
        assert "can replace the code that Ray runs from" in " ".join(error.split()), error
