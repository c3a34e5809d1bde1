"""The winner from Python: `from proxytune.tuning import load_study, best, pareto_front, export`."""

from pathlib import Path

from proxytune.tuning.errors import InputError
from proxytune.tuning.export.choose import Limits, best_record, front, front_objectives
from proxytune.tuning.export.export import export_study
from proxytune.tuning.export.records import TrialRecord, study_records
from proxytune.tuning.store.confirmation import read_confirmation
from proxytune.tuning.store.study import Study, open_study


def load_study(name: str, storage: Path | str = "studies", database: str | None = None) -> Study:
    """An existing study, as `proxytune show NAME --storage STORAGE --database URL` opens it.

    Raises:
        InputError: there is none of that name, and which there are.
        StorageError: the storage does not answer.
    """
    return open_study(name, Path(storage), database)


def best(study: Study) -> TrialRecord:
    """The study's winner: the confirmation's, else the search's (with several objectives, by the first one).

    Raises:
        InputError: no trial of the full budget is within the constraints.
        StorageError: the storage does not answer.
    """
    records, confirmation = study_records(study), read_confirmation(study)
    if confirmation is not None:
        return records[confirmation.winner]
    record = best_record(records, study.spec.search.objectives)
    if record is None:
        raise InputError(
            f"study {study.name} has no trial of the full budget within its constraints yet; run it further"
        )
    return record


def pareto_front(study: Study) -> list[TrialRecord]:
    """The trials that no other one dominates, by number; of one objective, against the memory of training.

    Raises:
        StorageError: the storage does not answer.
    """
    return front(study_records(study), front_objectives(study.spec.search.objectives))


def export(
    study: Study,
    folder: Path | str,
    *,
    trial: int | None = None,
    pareto: bool = False,
    max_memory_mib: float | None = None,
    min_throughput: float | None = None,
    register: bool = True,
) -> list[Path]:
    """Write the winner, or what is asked for, as `proxytune export` does; the folders that were written.

    Args:
        study: from `load_study`.
        folder: a path at which nothing is yet.
        trial: a trial's number.
        pareto: a folder for each point of the Pareto front.
        max_memory_mib: at most so many MiB a sequence in training.
        min_throughput: at least so many sequences trained per second.
        register: also register the model in MLflow; what was written stays if that fails.

    Raises:
        InputError: the folder exists, or no trial can be chosen so.
        StorageError: a checkpoint is gone or damaged, or the folder cannot be written.
        DataError: the task's data is missing or damaged.
        ProxytuneError: everything is written, and MLflow refused it.
    """
    limits = Limits(max_memory_mib=max_memory_mib, min_throughput=min_throughput)
    written = export_study(study, Path(folder), number=trial, pareto=pareto, limits=limits)
    if register:
        from proxytune.tuning.predict.registry import register as register_models

        register_models(study, written)
    return [one.folder for one in written]
