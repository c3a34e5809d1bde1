"""Requests from another terminal take effect during a training, not only at its next evaluation."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.journal.events import Event, Noted, Reported, TrialEnded, TrialStarted
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.store.steering import cancel_trial, enqueue, extend, pause, request_stop
from proxytune.tuning.store.study import open_study
from tests.commandline import command

STUDY = """
name: small
task: {name: listops-mini, train_examples: 512}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}
training: {steps: 1000000, warmup_steps: 6, batch_size: 8, learning_rate: 1e-3, eval_every: 3000}
search:
  space: {model.num_proxies: {choice: [2, 4, 8]}}
  stopping: {name: none}
  trials: 1
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    (tmp_path / "small.yaml").write_text(STUDY)
    with open(tmp_path / "log", "ab") as log:
        process = subprocess.Popen(command("run", "small.yaml"), cwd=tmp_path, stdout=log, stderr=log)
    yield process
    process.kill()
    process.wait()


class SteeredStudy:
    """A running study as recorded in its journal, and the seconds until each request took effect."""

    def __init__(self, folder: Path, driver: "subprocess.Popen[bytes]") -> None:
        self._folder, self._driver = folder, driver
        self.seconds: dict[str, float] = {}

    def events(self) -> list[Event]:
        outbox = self._folder / "studies" / "small" / "outbox"
        return read_events(outbox).events if outbox.exists() else []

    def wait(self, condition: Callable[[Event], bool], known: int = 0) -> list[Event]:
        """The events after the first `known`, once any of them meets the condition."""
        deadline = time.monotonic() + 600
        while not any(condition(event) for event in self.events()[known:]):
            log = (self._folder / "log").read_text()
            assert self._driver.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.02)
        return self.events()[known:]

    def wait_for_training(self, trial: int) -> None:
        """Wait for the trial's first evaluation."""
        self.wait(lambda event: isinstance(event, Reported) and event.trial == trial)

    def wait_for_checkpoint(self, trial: int) -> None:
        """Wait for the checkpoint of the step at which the trial was requeued."""
        (ended,) = (
            event for event in self.events() if isinstance(event, TrialEnded) and event.trial == trial
        )
        folder = self._folder / "studies" / "small" / "trials" / str(trial)
        deadline = time.monotonic() + 300
        while not any(
            json.loads(path.read_text())["step"] >= ended.step for path in folder.glob("step-*/manifest.json")
        ):
            assert time.monotonic() < deadline, "the worker has written no checkpoint"
            time.sleep(0.1)

    def measure(self, request: str, act: Callable[[], Any], effect: Callable[[Event], bool]) -> None:
        """Make the request; each trial may report at most one evaluation before it takes effect."""
        known, began = len(self.events()), time.time()
        act()
        since = self.wait(effect, known)
        index, seen = next((index, event) for index, event in enumerate(since) if effect(event))
        self.seconds[request] = seen.time_ms / 1000 - began
        reported = [event.trial for event in since[:index] if isinstance(event, Reported)]
        assert len(reported) == len(set(reported)), f"{request}: after {self.seconds[request]:.1f} s"


def starts(trial: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, TrialStarted) and event.trial == trial


def ends(trial: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, TrialEnded) and event.trial == trial


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_request_takes_effect_before_the_second_next_evaluation(
    tmp_path: Path, driver: "subprocess.Popen[bytes]", record_property: Callable[[str, object], None]
) -> None:
    """Latency is counted in evaluations, which are thousands of steps apart: a busy machine delays both."""
    steered = SteeredStudy(tmp_path, driver)
    steered.wait_for_training(0)
    study = open_study("small", tmp_path / "studies")
    enqueue(study, {"model.num_proxies": 8})
    steered.measure("extend: a trial starts", lambda: extend(study, 2), starts(1))
    steered.measure(
        "stop --trial while its worker starts: the trial ends", lambda: cancel_trial(study, 1), ends(1)
    )
    enqueue(study, {"model.num_proxies": 2})
    extend(study, 3)
    steered.wait_for_training(2)
    steered.measure(
        "stop --trial of a training trial: the trial ends", lambda: cancel_trial(study, 2), ends(2)
    )
    steered.measure("pause: the trial is requeued", lambda: pause(study, on=True), ends(0))
    steered.wait_for_checkpoint(0)
    steered.measure("resume: the trial starts", lambda: pause(study, on=False), starts(0))
    steered.measure(
        "stop: the journal notes it",
        lambda: request_stop(study, now=False),
        lambda event: isinstance(event, Noted) and event.text == "stop",
    )
    steered.measure("stop --now: the trial is requeued", lambda: request_stop(study, now=True), ends(0))
    assert driver.wait(300) == 75
    for request, seconds in steered.seconds.items():
        record_property(request, f"{seconds:.2f} s at load {os.getloadavg()[0]:.1f}")
    who = {event.text: event.who for event in steered.events() if isinstance(event, Noted)}
    assert {"stop", "stop now"} <= who.keys()
    assert all("@" in name for name in who.values())
