"""Ray's autoscaler with its fake nodes: studies request the nodes that they can use, and no more."""

import time
from collections.abc import Iterator

import pytest

from tests.tuning.cluster.nodes import RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]

MAX_NODES = 6


@pytest.fixture
def scaling() -> Iterator[RayCluster]:
    """A head that runs no trials, and up to MAX_NODES nodes of one slot each, started on demand."""
    running = RayCluster(cpus=0, scaled={"resources": {"CPU": 1}, "max_workers": MAX_NODES})
    yield running
    running.close()


def workers(scaling: RayCluster) -> set[str]:
    """The nodes that the autoscaler has started, dead ones too."""
    return {node["node_id"] for node in scaling.state("nodes")} - {scaling.head.id}


def test_trials_wait_for_nodes_and_no_unused_node_starts(scaling, tool, until, record_property) -> None:
    began = time.time()
    arguments = ("run", "small.yaml", "--address", scaling.address)
    driver = tool.start(tool.folder / "few.log", *arguments, "--set", "name=few", "--set", "search.trials=2")
    assert driver.wait(1200) == 0, (tool.folder / "few.log").read_text()
    record_property("seconds for two trials, including the start of their nodes", time.time() - began)
    assert [event.outcome for event in tool.events("few", "end")] == ["complete"] * 2
    assert 1 <= len(workers(scaling)) <= 2, "at most one node per trial"

    limited = ("--set", "name=limited", "--set", "search.trials=6", "--set", "resources.max_concurrent=2")
    driver = tool.start(tool.folder / "limited.log", *arguments, *limited)
    assert driver.wait(1200) == 0, (tool.folder / "limited.log").read_text()
    assert {event.outcome for event in tool.events("limited", "end")} == {"complete"}
    assert len(workers(scaling)) == 2, "one node per concurrent trial, not MAX_NODES"
