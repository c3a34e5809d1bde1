"""How long a wish from another terminal takes: from its command's start to the driver's word in the event log."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.store.steering import cancel_trial, enqueue, extend, pause, request_stop
from proxytune.tuning.store.study import open_study

STUDY = """
name: small
task: {name: listops-mini, train_examples: 512}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}
training: {steps: 1000000, warmup_steps: 6, batch_size: 8, learning_rate: 1e-3, eval_every: 1000000}
search:
  space: {model.num_proxies: {choice: [2, 4, 8]}}
  stopping: {name: none}
  trials: 1
"""


@pytest.fixture
def driver(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    (tmp_path / "small.yaml").write_text(STUDY)
    script = "from proxytune.tuning.cli import main; main()"
    with open(tmp_path / "log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", script, "run", "small.yaml"], cwd=tmp_path, stdout=log, stderr=log
        )
    yield process
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_wish_is_heard_within_seconds(tmp_path: Path, driver: "subprocess.Popen[bytes]") -> None:
    """One trial without an evaluation in sight, a second slot free: nothing but the driver's own attention counts."""
    outbox = tmp_path / "studies" / "small" / "outbox"

    def events() -> list[dict[str, Any]]:
        return read_events(outbox).events if outbox.exists() else []

    def count(**wanted: Any) -> int:
        return sum(all(event.get(key) == value for key, value in wanted.items()) for event in events())

    def wait(condition: Callable[[], bool], seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert driver.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)

    wait(lambda: count(kind="trial") == 1)
    study = open_study("small", tmp_path / "studies")
    taken: dict[str, float] = {}

    def measure(wish: str, act: Callable[[], Any], **effect: Any) -> None:
        before = count(**effect)
        began = time.time()
        act()
        wait(lambda: count(**effect) > before)
        seen = [event for event in events() if all(event.get(key) == value for key, value in effect.items())]
        taken[wish] = seen[-1]["time_ms"] / 1000 - began

    measure("enqueue and extend: it starts", lambda: (enqueue(study, {"model.num_proxies": 8}), extend(study, 2)), kind="trial", trial=1)  # fmt: skip
    measure(
        "stop --trial while its worker starts: it has ended",
        lambda: cancel_trial(study, 1),
        kind="end",
        trial=1,
    )
    enqueue(study, {"model.num_proxies": 2})
    extend(study, 3)
    wait(lambda: count(kind="trial", trial=2) == 1)
    time.sleep(20)  # no event tells that it trains
    measure(
        "stop --trial of one that trains: it has ended", lambda: cancel_trial(study, 2), kind="end", trial=2
    )
    measure("pause: the trial is handed back", lambda: pause(study, on=True), kind="end", trial=0)
    measure("resume: the trial goes on", lambda: pause(study, on=False), kind="trial", trial=0)
    measure("stop: it is heard", lambda: request_stop(study, now=False), kind="log", text="stop")
    measure(
        "stop --now: the trial is handed back", lambda: request_stop(study, now=True), kind="end", trial=0
    )
    assert driver.wait(300) == 75
    for wish, seconds in taken.items():
        print(f"{wish} after {seconds:.2f} s (load average {os.getloadavg()[0]:.1f})")
    assert len(taken) == 7
    who = {event.text: event.who for event in events() if event.kind == "log"}
    assert {"pause", "resume", "stop", "stop now"} <= who.keys()
    assert all("@" in name for name in who.values())
