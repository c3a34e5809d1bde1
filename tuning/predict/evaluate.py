"""`proxytune evaluate`: evaluates an exported model on the validation split, or on the test split, which is recorded."""

from typing import Any

from rich.console import Console

from proxytune.datasets import evaluation_batches, open_test_split
from proxytune.datasets.openings import recorded_openings
from proxytune.models.exported import WEIGHTS, read_sums
from proxytune.models.training import Trainer
from proxytune.tuning.errors import InputError
from proxytune.tuning.export.export import evaluation_mark
from proxytune.tuning.predict.exported import Exported
from proxytune.tuning.run.data_progress import data_progress
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.profile import trial_device
from proxytune.tuning.trial.trial_run import EVALUATION_BATCH_SIZE, final_accuracy


def evaluate_export(
    exported: Exported, split: str, *, who: str, again: bool, console: Console
) -> dict[str, Any]:
    """Accuracy and loss of an exported model on `val` or `test`.

    Args:
        exported: the export.
        split: `val` or `test`. An opening of the test split is recorded next to the prepared data before it is read.
        who: the user who opens the test split.
        again: open the test split even if it has been opened before for this study.
        console: shows progress while data is prepared.

    Returns:
        split, accuracy, loss, num_examples, same_data (whether the data is that of the export), and recorded_accuracy
        for `val` or openings (their number) for `test`.

    Raises:
        InputError: the test split was opened before, or the classifier does not fit the data.
        DataError: the task's data is missing or damaged.
    """
    spec = exported.spec
    with data_progress(console, spec.task.name) as report:
        prepared = prepare_task(spec.task, report)
    trainer = Trainer(
        spec.model_config_for(prepared.info), spec.training_config(), spec.seed, trial_device(spec)
    )
    try:
        trainer.model.load_state_dict(exported.classifier().state_dict())
    except RuntimeError as error:
        detail = (str(error).splitlines()[1:2] or [str(error)])[0].strip()
        raise InputError(f"the model does not fit the data or settings given here: {detail}") from None
    facts: dict[str, Any] = {
        "split": split,
        "same_data": prepared.fingerprint == exported.provenance["data"]["fingerprint"],
    }
    if split == "val":
        rows = prepared.validation
        facts["recorded_accuracy"] = final_accuracy(spec, exported.metrics)
    else:
        mark = evaluation_mark(spec.name)
        own = [
            opening for opening in recorded_openings(prepared.folder) if opening["reason"].startswith(mark)
        ]
        known = [opening["at"] for opening in exported.provenance.get("test_openings", [])]
        earlier = sorted({*known, *(opening["time"] for opening in own)})
        if earlier and not again:
            raise InputError(
                f"the test split was opened for {spec.name} before ({earlier[-1]}); `again` opens it once more, and "
                "every later export records it"
            )
        weights = read_sums(exported.folder)[WEIGHTS][:12]
        number = exported.provenance.get("trial")
        subject = f"weights {weights}" if number is None else f"trial {number}, weights {weights}"
        rows = open_test_split(prepared, by=who, reason=f"{mark} {subject}")
        facts["openings"] = len(earlier) + 1
    metrics = trainer.evaluate(evaluation_batches(rows, batch_size=EVALUATION_BATCH_SIZE))
    return facts | {
        "accuracy": metrics["val_accuracy"],
        "loss": metrics["val_loss"],
        "num_examples": len(rows),
    }
