"""Training of one trial: after any interruption, a resumed trial reports the same as an uninterrupted one."""

import random
from pathlib import Path

import torch

from proxytune.datasets import evaluation_batches
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.trial_run import EVALUATION_BATCH_SIZE, TrialRun
from proxytune.tuning.trial.update import TrialUpdate
from tests.tuning.conftest import checkpoints_in

TIMED = {"seconds", "tokens_per_second"}


def reports(run: TrialRun) -> list[TrialUpdate]:
    updates = []
    while True:
        update = run.advance()
        if update.metrics is not None:
            updates.append(update)
        if update.outcome != "running":
            return updates


def untimed(update: TrialUpdate) -> tuple[int, dict[str, float]]:
    assert update.metrics is not None
    return update.step, {name: value for name, value in update.metrics.items() if name not in TIMED}


def trial(make_spec, *assignments: str) -> TrialSpec:
    return make_spec(*assignments).trial({"model.dropout": 0.2})


def test_each_evaluation_is_reported_and_the_last_report_is_complete(make_spec, tmp_path: Path) -> None:
    updates = reports(TrialRun(trial(make_spec), checkpoints_in(tmp_path)))
    assert [update.step for update in updates] == [10, 20, 30]
    assert [update.outcome for update in updates] == ["running", "running", "complete"]
    for update in updates:
        assert update.metrics is not None
        assert {"val_accuracy", "val_loss", "train_loss", "contrastive_loss", "proxy_cosine", *TIMED} <= set(
            update.metrics
        )
        assert TrialUpdate.from_json(update.to_json()) == update


def test_trial_interrupted_at_random_updates_reports_the_same(make_spec, tmp_path: Path, monkeypatch) -> None:
    spec = trial(make_spec, "training.steps=15", "training.eval_every=5")
    expected = [untimed(update) for update in reports(TrialRun(spec, checkpoints_in(tmp_path / "complete")))]
    monkeypatch.setattr(TrialRun, "update_seconds", 0.0)  # one update per step
    for seed in range(3):
        checkpoints, chance = checkpoints_in(tmp_path / f"interrupted-{seed}"), random.Random(seed)
        run, reported, num_updates = TrialRun(spec, checkpoints), {}, 0
        while True:
            update = run.advance()
            num_updates += 1
            if update.metrics is not None:
                reported[update.step] = untimed(update)
            if update.outcome == "complete":
                break
            if chance.random() < 0.3:
                if chance.random() < 0.5:
                    run.save()  # a graceful stop; otherwise a kill: resumed from the last evaluation
                run = TrialRun(spec, checkpoints)
        assert [reported[step] for step in sorted(reported)] == expected
        assert num_updates > 15, "no step was repeated"


def test_resumed_trial_repeats_a_report_that_may_be_lost(make_spec, tmp_path: Path) -> None:
    spec = trial(make_spec)
    first = TrialRun(spec, checkpoints_in(tmp_path)).advance()
    repeated = TrialRun(spec, checkpoints_in(tmp_path)).advance()
    assert repeated == first


def test_damaged_checkpoint_is_noted_and_the_previous_one_resumed(make_spec, tmp_path: Path) -> None:
    spec = trial(make_spec)
    run = TrialRun(spec, checkpoints_in(tmp_path))
    run.advance(), run.advance()
    next((tmp_path / "step-0000000020").glob("state-*.pt")).write_bytes(b"damaged")
    resumed = TrialRun(spec, checkpoints_in(tmp_path))
    assert resumed.step == 10
    assert "step-0000000020" in resumed.advance().notes[0]


def test_non_finite_loss_is_reported_as_diverged(make_spec, tmp_path: Path) -> None:
    spec = trial(make_spec, "training.learning_rate=1e30")
    run = TrialRun(spec, checkpoints_in(tmp_path))
    update = run.advance()
    while update.outcome == "running":
        update = run.advance()
    assert update.outcome == "diverged"
    assert update.reason


def test_best_evaluation_is_reported_and_its_weights_are_kept(make_spec, tmp_path: Path) -> None:
    spec = trial(
        make_spec, "training.learning_rate=1e-2", "training.eval_every=5", "training.final_weights=best"
    )
    checkpoints = checkpoints_in(tmp_path)
    run = TrialRun(spec, checkpoints)
    updates = reports(run)
    accuracies = {update.step: update.metrics["val_accuracy"] for update in updates if update.metrics}
    last = updates[-1].metrics
    assert last is not None
    assert last["val_accuracy"] == accuracies[30]
    assert last["best_val_accuracy"] == max(accuracies.values())
    best_step = next(step for step, value in accuracies.items() if value == max(accuracies.values()))
    assert last["best_step"] == best_step

    state, _ = checkpoints.newest()
    assert state is not None
    assert state["best"]["step"] == best_step
    run.trainer.model.load_state_dict(state["best"]["weights"])
    prepared = prepare_task(spec.task)
    batches = evaluation_batches(prepared.validation, batch_size=EVALUATION_BATCH_SIZE)
    assert run.trainer.evaluate(batches)["val_accuracy"] == last["best_val_accuracy"]


def test_batch_order_follows_the_spec(make_spec) -> None:
    def losses(order: str) -> list[float]:
        spec = trial(make_spec, "training.steps=6", "training.eval_every=3", f"training.batch_order={order}")
        updates = reports(TrialRun(spec, None))
        return [update.metrics["train_loss"] for update in updates if update.metrics]

    uniform = losses("uniform")
    assert losses("bucketed") != uniform
    assert losses("uniform") == uniform


def test_out_of_memory_error_is_reported_as_outcome(make_spec, tmp_path: Path, monkeypatch) -> None:
    run = TrialRun(trial(make_spec), checkpoints_in(tmp_path))

    def run_out_of_memory(_batch: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(run.trainer, "train_step", run_out_of_memory)
    update = run.advance()
    assert update.outcome == "out_of_memory"
    assert "20.00 GiB" in update.reason
