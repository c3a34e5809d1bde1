"""Several drivers on a real cluster of two slots: a study of higher priority starts and ends, another driver is killed."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxytune.tuning.store.study import open_study

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(2400)]

STEPS, EVERY = 2000, 500


@pytest.fixture
def start(cluster, tool) -> Iterator:
    """Start drivers of the study `name`; they are killed at the end of the test."""
    with ExitStack() as stack:

        def begin(name: str, trials: int, priority: int = 0):
            values = {
                "name": name,
                "training.steps": STEPS,
                "training.eval_every": EVERY,
                "search.trials": trials,
                "resources.priority": priority,
            }
            given = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
            log = tool.folder / f"{name}.log"
            driver = tool.start(log, "run", "small.yaml", *given, "--address", cluster.address)
            stack.callback(driver.wait)
            stack.callback(driver.kill)
            return driver

        yield begin


def running(tool, study: str) -> set[int]:
    """Trials that have started and not ended according to the journal."""
    started = Counter(event.trial for event in tool.events(study, "trial"))
    return set(started - Counter(event.trial for event in tool.events(study, "end")))


def saved_step(tool, study: str, trial: int) -> int:
    manifests = (tool.folder / "studies" / study / "trials" / str(trial)).glob("step-*/manifest.json")
    return max((json.loads(path.read_text())["step"] for path in manifests), default=0)


def test_studies_share_by_priority_and_reuse_the_slot_of_a_dead_driver(
    tool, start, until, record_property
) -> None:
    low = start("low", 1000)
    until(lambda: len({event.trial for event in tool.events("low", "report")} & running(tool, "low")) == 2)

    arrived = time.time()
    high = start("high", 2, priority=1)
    until(lambda: len(tool.events("high", "report")) > 0)
    record_property(
        "seconds until the first report of the higher priority",
        tool.events("high", "report")[0].time_ms / 1000 - arrived,
    )
    yielded = [event for event in tool.events("low", "end") if event.outcome == "interrupted"]
    assert yielded
    for event in yielded:
        assert "at priority 0: waits for high of " in event.reason
        until(lambda event=event: saved_step(tool, "low", event.trial) >= event.step, 60)
    assert len(running(tool, "low")) <= 1
    waits = tool.json("show", "low")["waits"]
    assert "waits for high of " in waits
    assert "(priority 1)" in waits
    assert high.wait(1200) == 0, (tool.folder / "high.log").read_text()
    until(lambda: len(running(tool, "low")) == 2)
    until(lambda: tool.json("show", "low")["waits"] is None, 60)

    other = start("other", 1000)
    until(lambda: len(tool.events("other", "report")) > 0)
    until(lambda: len(running(tool, "low")) == len(running(tool, "other")) == 1)
    assert "shares equally with low of " in tool.json("show", "other")["waits"]
    killed = time.time()
    other.send_signal(signal.SIGKILL)
    until(lambda: len(running(tool, "low")) == 2)
    reused = max(event.time_ms for event in tool.events("low", "trial")) / 1000 - killed
    record_property("seconds until the slot of a dead driver is reused", reused)

    tool.run("extend", "low", "--trials", len({event.trial for event in tool.events("low", "trial")}))
    assert low.wait(1800) == 0, (tool.folder / "low.log").read_text()
    for name in ("low", "high"):
        study = open_study(name, tool.folder / "studies")
        reports = Counter((event.trial, event.step) for event in tool.events(name, "report"))
        trials = study.trials()
        steps = [*range(EVERY, STEPS + 1, EVERY)]
        assert reports == dict.fromkeys(((trial.number, step) for trial in trials for step in steps), 1)
        assert [sorted(trial.intermediate_values) for trial in trials] == [steps] * len(trials)
        assert {trial.state.name for trial in trials} == {"COMPLETE"}
