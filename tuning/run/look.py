"""Checks a study against its stored state before it starts."""

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.same_spec import check_same
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import END, WARM_START
from proxytune.tuning.store.stored_study import StoredStudy
from proxytune.tuning.store.summary import spent_limit
from proxytune.tuning.store.table_study import find_study


def check_study(spec: StudySpec) -> list[str]:
    """Messages about the state that a start of this study would find; nothing is written.

    Raises:
        InputError: its budget is spent, or the study named by `search.warm_start` does not exist.
        OtherSpecError: a study of this name exists with another spec.
        StorageError: the storage cannot be reached.
    """
    study = find_study(spec.name, spec.storage, spec.database)
    if study is None:
        return _warm_start_lines(spec, None)
    check_same(study.spec, spec)
    budget = wanted_budget(study.spec, spec, study.budget)
    if (reached := spent_limit(study, spec.search, budget)) is not None:
        key, spent, limit = reached
        raise InputError(
            f"search.{key}: the budget of study {spec.name} is spent ({spent:g} of {limit:g}); raise it to resume, "
            "or give the study another name"
        )
    if study.ended_because and budget == study.budget:
        raise InputError(
            f"search.stop_when: study {spec.name} has ended because {study.ended_because}; `extend` resumes it"
        )
    lines = [*_warm_start_lines(spec, study), *without_effect(study.spec, spec, budget)]
    ended = sum(END in trial.user_attrs for trial in study.trials())
    return [f"study {spec.name} exists and is resumed: {ended} of {budget} trials have ended", *lines]


def _warm_start_lines(spec: StudySpec, study: StoredStudy | None) -> list[str]:
    """Messages about what the study has taken, or would take, from an earlier study."""
    stored = study and study.attributes.get(WARM_START)
    if not (stored if study else spec.search.warm_start):
        return []
    from proxytune.tuning.search.warm_start import WarmStart, read_warm_start

    earlier = WarmStart.from_json(stored) if stored else read_warm_start(spec)
    return [] if earlier is None else [earlier.summary(), *earlier.notes]


def wanted_budget(stored: StudySpec, spec: StudySpec, budget: int) -> int:
    """The study's budget under a new spec: raised if `search.trials` was raised, otherwise unchanged."""
    return max(budget, spec.search.trials) if spec.search.trials > stored.search.trials else budget


def without_effect(stored: StudySpec, spec: StudySpec, budget: int) -> list[str]:
    """A message for each change of the spec that has no effect on a stored study."""
    lines = []
    if spec.search.trials < stored.search.trials:
        lines.append(
            f"search.trials: lowering it to {spec.search.trials} has no effect, the budget of study {spec.name} is "
            f"{budget}; extend changes it"
        )
    if spec.search.enqueue != stored.search.enqueue:
        lines.append(
            f"search.enqueue: the change applies only to new studies; add configurations to study {spec.name} with enqueue"
        )
    return lines
