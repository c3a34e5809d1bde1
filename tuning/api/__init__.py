"""The Python API: `from proxytune.tuning import load_study, best, pareto_front, export_study`."""

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
    """Open an existing study, like `proxytune show NAME --storage STORAGE --database URL`.

    Raises:
        InputError: the study does not exist; the message lists the existing studies.
        StorageError: the storage cannot be reached.
    """
    return open_study(name, Path(storage), database)


def best(study: Study) -> TrialRecord:
    """The study's winner: that of its confirmation, or of its search if it is not confirmed.

    Raises:
        InputError: no trial that reached the full budget is within the constraints.
        StorageError: the storage cannot be reached.
    """
    found = winner(study)
    if found is None:
        raise InputError(
            f"study {study.name} has no trial that reached the full budget within its constraints yet; resume it"
        )
    return study_records(study)[found.trial]


def pareto_front(study: Study) -> list[TrialRecord]:
    """The non-dominated trials by number; with a single objective, training memory is the second objective.

    Raises:
        StorageError: the storage cannot be reached.
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
    """Export the winner or other trials, like `proxytune export`, and return the written folders.

    Args:
        study: a study from `load_study`.
        folder: a path that does not exist.
        trial: export the trial of this number.
        pareto: export every trial of the Pareto front, each into its own folder.
        max_memory_mib: export the best trial of at most this training memory per sequence, in MiB.
        min_throughput: export the best trial of at least this training speed, in sequences per second.
        register: also register the models in MLflow; the written folders remain if this fails.

    Raises:
        InputError: the folder exists, arguments exclude each other, or no trial satisfies them.
        StorageError: a checkpoint is missing or damaged, or the folder cannot be written.
        DataError: the task's data is missing or damaged.
        ProxytuneError: the folders are written, but the registration in MLflow failed.
    """
    request = export_request(
        trial=trial, pareto=pareto, max_memory_mib=max_memory_mib, min_throughput=min_throughput
    )
    written = exports.export_study(study, Path(folder), request)
    if register:
        from proxytune.tuning.predict.registry import register as register_models

        register_models(study, written)
    return [result.folder for result in written]
