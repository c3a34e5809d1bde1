"""Evaluates the models of a winner on the test split; runs on a Ray worker and does not import the search."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from proxytune.datasets import DataError, evaluation_batches, open_test_split
from proxytune.models.training import Trainer
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.checkpoints import Checkpoints, CorruptCheckpoint
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.profile import trial_device
from proxytune.tuning.trial.trial_run import EVALUATION_BATCH_SIZE, final_weights


def accuracies_on_test(
    models: Sequence[tuple[TrialSpec, Checkpoints]], by: str, reason: str, log_folder: Path
) -> Iterator[tuple[int, float]]:
    """Open the test split, which is logged in `log_folder`, and evaluate each model, given by spec and checkpoints.

    Yields:
        (examples in the test split, the model's accuracy there).

    Raises:
        DataError: the data is missing, damaged or not that of the models, or the log cannot be written.
        CorruptCheckpoint: a model's newest checkpoint is missing or damaged; the split is not opened then.
    """
    states = [_newest(checkpoints) for _, checkpoints in models]
    prepared = prepare_task(models[0][0].task)
    trained_on = models[0][1].owner.data
    if trained_on not in (None, prepared.fingerprint):
        raise DataError(
            f"the {models[0][0].task.name} data here is {prepared.fingerprint[:12]}, the models were trained on "
            f"{trained_on[:12]}: restore the data at task.root"
        )
    split = open_test_split(prepared, by=by, reason=reason, log_folder=log_folder)
    for (spec, _), state in zip(models, states, strict=True):
        trainer = Trainer(
            spec.model_config_for(prepared.info), spec.training_config(), spec.seed, trial_device(spec)
        )
        trainer.model.load_state_dict(final_weights(state))
        metrics = trainer.evaluate(evaluation_batches(split, batch_size=EVALUATION_BATCH_SIZE))
        yield len(split), metrics["val_accuracy"]


def _newest(checkpoints: Checkpoints) -> dict[str, Any]:
    path = next(checkpoints.paths(), None)
    if path is None:
        raise CorruptCheckpoint(f"{checkpoints.folder}: there is no checkpoint")
    return checkpoints.load(path)
