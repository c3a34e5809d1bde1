"""The winner from Python: `from proxytune.tuning import load_study, best, pareto_front, export_study`."""

from pathlib import Path

from proxytune.tuning.errors import InputError
from proxytune.tuning.export import export as exports
from proxytune.tuning.export.choose import eligible_points
from proxytune.tuning.export.request import export_request
from proxytune.tuning.spec import ranking
from proxytune.tuning.store.records import TrialRecord, study_records
from proxytune.tuning.store.study import Study, open_study
from proxytune.tuning.store.winner import winner


def load_study(name: str, storage: Path | str = "studies", database: str | None = None) -> Study:
    """An existing study, as `proxytune show NAME --storage STORAGE --database URL` opens it.

    Raises:
        InputError: there is none of that name, and which there are.
        StorageError: the storage does not answer.
    """
    return open_study(name, Path(storage), database)


def best(study: Study) -> TrialRecord:
    """The study's winner: the confirmation's, or the search's where there is no confirmation.

    Raises:
        InputError: no trial of the full budget is within the constraints.
        StorageError: the storage does not answer.
    """
    found = winner(study)
    if found is None:
        raise InputError(
            f"study {study.name} has no trial of the full budget within its constraints yet; run it further"
        )
    return study_records(study)[found.trial]


def pareto_front(study: Study) -> list[TrialRecord]:
    """The trials that no other trial dominates, by number; a single objective is compared together with memory.

    Raises:
        StorageError: the storage does not answer.
    """
    records = study_records(study)
    compared = ranking.front_objectives(study.spec.search.objectives)
    return [records[number] for number in ranking.front(eligible_points(records), compared)]


def export_study(
    study: Study,
    folder: Path | str,
    *,
    trial: int | None = None,
    pareto: bool = False,
    max_memory_mib: float | None = None,
    min_throughput: float | None = None,
    register: bool = True,
) -> list[Path]:
    """Write the winner or another choice of trials, as `proxytune export` does. Returns the folders.

    Args:
        study: from `load_study`.
        folder: a path that does not exist.
        trial: a trial's number.
        pareto: a folder for each trial of the Pareto front.
        max_memory_mib: the best trial of at most this memory per sequence in training, in MiB.
        min_throughput: the best trial of at least this training speed, in sequences per second.
        register: also register the model in MLflow; what was written stays if that fails.

    Raises:
        InputError: the folder exists, arguments exclude each other, or no trial can be chosen by them.
        StorageError: a checkpoint is gone or damaged, or the folder cannot be written.
        DataError: the task's data is missing or damaged.
        ProxytuneError: everything is written, and MLflow refused it.
    """
    request = export_request(
        trial=trial, pareto=pareto, max_memory_mib=max_memory_mib, min_throughput=min_throughput
    )
    written = exports.export_study(study, Path(folder), request)
    if register:
        from proxytune.tuning.predict.registry import register as register_models

        register_models(study, written)
    return [one.folder for one in written]
