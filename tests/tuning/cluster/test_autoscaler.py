"""Ray's autoscaler, with its own fake nodes: it is asked for the nodes that studies can use, and for no more."""

import time
from collections.abc import Iterator

import pytest

from tests.tuning.cluster.nodes import RayCluster

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1800)]

MOST = 6


@pytest.fixture
def scaling() -> Iterator[RayCluster]:
    """A head that takes no trials, and up to MOST nodes of a slot each; none is there before somebody asks."""
    running = RayCluster(cpus=0, scaled={"resources": {"CPU": 1}, "max_workers": MOST})
    yield running
    running.close()


def workers(scaling: RayCluster) -> set[str]:
    """The nodes that the autoscaler has started, dead ones too."""
    return {node["node_id"] for node in scaling.state("nodes")} - {scaling.head.id}


def test_trials_wait_for_nodes_and_no_unused_node_starts(scaling, tool, until, record_property) -> None:
    began = time.time()
    arguments = ("run", "small.yaml", "--address", scaling.address)
    few = tool.start(tool.folder / "few.log", *arguments, "--set", "name=few", "--set", "search.trials=2")
    assert few.wait(1200) == 0, (tool.folder / "few.log").read_text()
    record_property("seconds of two trials, with the start of their nodes", time.time() - began)
    assert [event.outcome for event in tool.events("few", "end")] == ["complete"] * 2
    assert 1 <= len(workers(scaling)) <= 2, "one after the other, as long as a trial waits"

    limited = ("--set", "name=limited", "--set", "search.trials=6", "--set", "resources.max_concurrent=2")
    done = tool.start(tool.folder / "limited.log", *arguments, *limited)
    assert done.wait(1200) == 0, (tool.folder / "limited.log").read_text()
    assert {event.outcome for event in tool.events("limited", "end")} == {"complete"}
    assert len(workers(scaling)) == 2, "as many as trials that run at once, not MOST"
