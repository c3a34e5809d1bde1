"""Opens the test split: once per set of models, recorded in the study's storage before it happens."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from proxytune.tuning.confirm.racing import interval
from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.spec.metrics import bounds_of
from proxytune.tuning.store.checkpoints import Checkpoints, read_manifest
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.test_split import OPENINGS, read_openings

Evaluate = Callable[..., Iterator[tuple[int, float]]]
Say = Callable[[str], None]


def open_once(
    study: Study,
    subject: Mapping[str, Any],
    what: str,
    evaluate: Evaluate,
    *,
    who: str,
    again: bool,
    say: Say,
) -> dict[str, Any]:
    """The accuracies of models on the test split: the stored result, or that of a new, recorded opening.

    A recorded opening without a result (its process was killed) is resumed for the same models: no result has been seen,
    and the evaluation is deterministic.

    Args:
        study: the study; the caller holds its lease.
        subject: JSON values that identify the models; `trial` or `trials` names them.
        what: a description of the subject, such as "trial 7".
        evaluate: called with `by` and `reason`; yields (examples in the split, accuracy) for each model.
        who: the user who opens the split, for the record.
        again: open the split even if it was opened before.
        say: called with progress messages.

    Returns:
        `values` (the accuracy of each model, in the order of `evaluate`), `num_examples`, `openings` (number of openings
        of this study so far), `opened_at` and `opened_by`.

    Raises:
        InputError: the split was opened before for other models, and `again` is false.
    """
    openings = read_openings(study)
    same = bool(openings) and openings[-1]["subject"] == subject
    if same and openings[-1]["result"] is not None and not again:
        return dict(openings[-1]["result"])
    if openings and not same and not again:
        refuse(study, openings)
    if not same or openings[-1]["result"] is not None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        openings.append({"at": now, "by": who, "subject": dict(subject), "result": None})
        _store(study, openings)
    opening = openings[-1]
    say(f"the test split is opened for {what} (opening {len(openings)} of this study)")
    values: list[float] = []
    num_examples = 0
    reason = f"study {study.name}: {what}, opening {len(openings)}"
    for num_examples, accuracy in evaluate(by=opening["by"], reason=reason):
        values.append(accuracy)
        say(f"tested {len(values)} model{'s' if len(values) > 1 else ''} on {num_examples:,} examples")
    opening["result"] = {
        "values": values,
        "num_examples": num_examples,
        "openings": len(openings),
        "opened_at": opening["at"],
        "opened_by": opening["by"],
    }
    _store(study, openings)
    return dict(opening["result"])


def mean_and_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The mean accuracy and its 95 % interval over seeds."""
    return float(np.mean(values)), interval(values, bounds_of("val_accuracy"))


def refuse(study: Study, openings: Sequence[Mapping[str, Any]]) -> None:
    """Refuse another opening.

    Raises:
        InputError: always; the message gives the time and the trials of the last opening.
    """
    last = openings[-1]
    subject = last["subject"]
    trials = f"trial {subject['trial']}" if "trial" in subject else f"{len(subject['trials'])} trials"
    raise InputError(
        f"study {study.name} opened its test split at {last['at']} for {trials}; another opening must be requested "
        "(again), and every export records it"
    )


def checksum(checkpoints: Checkpoints) -> str:
    """The sha256 of a trial's newest checkpoint, from its manifest.

    Raises:
        StorageError: the checkpoint is missing or damaged.
    """
    try:
        return str(read_manifest(next(checkpoints.paths()))["sha256"])
    except (StopIteration, OSError, ValueError, KeyError):
        raise StorageError(f"{checkpoints.folder}: the checkpoint is missing or damaged") from None


def _store(study: Study, openings: Sequence[Mapping[str, Any]]) -> None:
    with storage_errors():
        study.optuna.set_user_attr(OPENINGS, openings)
