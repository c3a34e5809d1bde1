"""Optuna's storage in PostgreSQL: run, kill, resume, a second driver, steering, reading."""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxytune.tuning.errors import HeldError
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.steering import enqueue, extend
from proxytune.tuning.store.study import Study, open_study
from proxytune.tuning.store.summary import summary
from proxytune.tuning.trial.update import TrialUpdate
from tests.commandline import command

STUDY = """
name: small
task: {name: listops-mini, train_examples: 256}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}
training: {steps: 120, warmup_steps: 6, batch_size: 4, learning_rate: 1e-3, eval_every: 30}
search:
  space: {model.num_proxies: {choice: [2, 4, 8]}}
  stopping: {name: none}
  trials: 2
"""


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts `proxytune` with the given arguments."""
    started = []

    def start(*arguments: object) -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(
                command(*arguments), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_controller_resumes_in_postgresql_after_a_kill(
    postgres: Any, make_spec: Callable[..., StudySpec]
) -> None:
    spec = make_spec(f"database={postgres.uri}", "search.trials=2")

    def begin() -> tuple[Study, Lease, Outbox, StudyController]:
        study = begin_study(spec)
        lease = Lease(study.storage, spec.name)
        lease.acquire()
        outbox = Outbox(spec.folder / "outbox")
        controller = StudyController(spec, study.optuna, study.storage, outbox)
        controller.reconcile()
        return study, lease, outbox, controller

    def report(
        controller: StudyController, number: int, step: int, accuracy: float, outcome: str = "running"
    ) -> None:
        metrics = {"val_accuracy": accuracy, "val_loss": 1.0}
        controller.receive(number, TrialUpdate(step=step, metrics=metrics, outcome=outcome), {})

    study, lease, outbox, controller = begin()
    first, second = controller.next_trial(), controller.next_trial()
    assert first is not None
    assert second is not None
    report(controller, first.number, 30, 0.4, "complete")
    report(controller, second.number, 10, 0.5)
    with pytest.raises(HeldError, match=f"process {os.getpid()} on"):
        Lease(study.storage, spec.name).acquire()
    other = open_study(spec.name, spec.storage, postgres.uri)  # another terminal
    extend(other, 3)
    enqueue(other, {"model.dropout": 0.25})
    lease.release()
    outbox.close()  # as after kill -9: the end of no trial is recorded
    study.storage.engine.dispose()

    study, lease, outbox, controller = begin()
    assert study.budget == 3
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE", "WAITING", "WAITING"]
    resumed, enqueued = controller.next_trial(), controller.next_trial()
    assert resumed is not None
    assert enqueued is not None
    assert resumed.number == second.number
    assert enqueued.spec.model["dropout"] == 0.25
    assert controller.next_trial() is None
    for number in (resumed.number, enqueued.number):
        report(controller, number, 30, 0.6 + number / 100, "complete")
    reader = open_study(spec.name, spec.storage, postgres.uri)
    shown = summary(reader)
    assert shown["outcomes"] == {"complete": 3}
    assert shown["best"][0]["trial"] == enqueued.number
    assert not (spec.folder / "study.db").exists()
    lease.release()
    outbox.close()
    for opened in (study, other, reader):
        opened.storage.engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_study_in_postgresql_survives_a_kill_and_follows_other_terminals(
    tmp_path: Path, postgres: Any, drive: Callable[..., "subprocess.Popen[str]"]
) -> None:
    (tmp_path / "small.yaml").write_text(STUDY)
    run = ("run", "small.yaml", "--set", f"database={postgres.uri}")
    study = ("small", "--database", postgres.uri)
    outbox = tmp_path / "studies" / "small" / "outbox"

    def events(kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(outbox).events if event.kind == kind]

    def wait_for_reports(driver: "subprocess.Popen[str]", number: int) -> None:
        deadline = time.monotonic() + 600
        while len(events("report")) < number:
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait(process: "subprocess.Popen[str]", code: int) -> tuple[str, str]:
        """Its standard output and error; it must exit with the code."""
        output, error = process.communicate(timeout=900)
        assert process.returncode == code, error
        assert "Traceback" not in error
        assert postgres.PASSWORD not in output + error
        return output, error

    first = drive(*run)
    wait_for_reports(first, 1)
    _, error = wait(drive(*run), 3)
    assert f"process {first.pid} on" in error
    wait(
        drive("enqueue", *study, "model.num_proxies=8"), 0
    )  # before `extend`: otherwise the sampler may propose the third trial
    wait(drive("extend", *study, "--trials", 3), 0)
    first.kill()
    first.communicate()
    assert not (tmp_path / "studies" / "small" / "study.db").exists()

    second = drive(*run)  # takes over the lease of the dead process
    wait_for_reports(second, len(events("report")) + 1)
    wait(drive("stop", *study, "--now"), 0)
    wait(second, 75)
    shown = json.loads(wait(drive("show", *study, "--json"), 0)[0])
    assert shown["budget"] == 3
    assert "running" not in shown["outcomes"]

    wait(drive(*run), 0)
    shown = json.loads(wait(drive("show", *study, "--json"), 0)[0])
    assert shown["outcomes"] == {"complete": 3}
    reports = Counter((event.trial, event.step) for event in events("report"))
    assert reports == {(trial, step): 1 for trial in range(3) for step in range(30, 121, 30)}
    logged = {event.text for event in events("log")}
    assert "stop now" in logged
    assert any(text.startswith("enqueued trial") for text in logged)
    assert postgres.PASSWORD not in os.fsdecode((outbox / "events.jsonl").read_bytes())
