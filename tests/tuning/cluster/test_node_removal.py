"""Removal of a machine: an interrupted trial is saved and resumes with the same reports, on a node with the same data."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxytune.tuning.cluster.trainable import TrialTrainable
from proxytune.tuning.trial.trial_run import TrialRun
from proxytune.tuning.trial.update import TrialUpdate
from tests.tuning.conftest import checkpoints_in

TIMED = {"seconds", "tokens_per_second"}


def reports(run: TrialRun) -> dict[int, dict[str, float]]:
    """Train to the end; the metrics of each report, without timings."""
    found: dict[int, dict[str, float]] = {}
    update = TrialUpdate(step=0)
    while update.outcome == "running":
        update = run.advance()
        if update.metrics is not None:
            found[update.step] = {name: value for name, value in update.metrics.items() if name not in TIMED}
    assert update.outcome == "complete"
    return found


@pytest.fixture
def spec(make_spec):
    return make_spec().trial({"model.dropout": 0.2})


@pytest.mark.parametrize("moment", ["during a step", "during an evaluation", "before the first step"])
def test_interrupted_trial_resumes_with_the_same_reports(
    spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    expected = reports(TrialRun(spec, checkpoints_in(tmp_path / "uninterrupted")))
    run = TrialRun(spec, checkpoints_in(tmp_path / "interrupted"))
    if moment == "during a step":
        step = run.trainer.train_step

        def interrupt_in_third_step(batch):
            if run.step == 2:
                run.interrupt()  # as the signal handler does
            return step(batch)

        monkeypatch.setattr(run.trainer, "train_step", interrupt_in_third_step)
    elif moment == "during an evaluation":
        evaluate = run.trainer.evaluate

        def interrupt_in_evaluation(batches):
            def interrupting():
                for number, batch in enumerate(batches):
                    if number == 0:
                        run.interrupt()
                    yield batch

            return evaluate(interrupting())

        monkeypatch.setattr(run.trainer, "evaluate", interrupt_in_evaluation)
    else:
        run.interrupt()
    update = run.advance()
    assert update.outcome == "running"
    assert update.metrics is None
    assert update.step == {"during a step": 3, "during an evaluation": 10, "before the first step": 0}[moment]
    run.save()
    resumed = TrialRun(spec, checkpoints_in(tmp_path / "interrupted"))
    assert resumed.step == update.step
    assert reports(resumed) == expected


@pytest.fixture
def trainable() -> Iterator[TrialTrainable]:
    """Not set up, and without Ray's constructor, which creates folders in the home folder."""
    handler = signal.getsignal(signal.SIGTERM)
    yield object.__new__(TrialTrainable)
    signal.signal(signal.SIGTERM, handler)


def test_node_with_different_data_than_the_driver_fails_the_trial(
    spec, tmp_path: Path, trainable: TrialTrainable
) -> None:
    fingerprint = TrialRun(spec, None).fingerprint
    checkpoints = checkpoints_in(tmp_path)
    config = {"spec": spec.model_dump_json(), "checkpoints": checkpoints.trained_on("0" * 64).to_json()}
    trainable.setup(config)
    update = TrialUpdate.from_json(trainable.step()["update"])
    assert update.outcome == "failed"
    assert "differ from the driver's (000000000000)" in update.reason
    assert fingerprint[:12] in update.reason
    assert list(tmp_path.iterdir()) == []
    assert trainable.reset_config(config | {"checkpoints": checkpoints.trained_on(fingerprint).to_json()})
    assert TrialUpdate.from_json(trainable.step()["update"]).outcome == "running"
