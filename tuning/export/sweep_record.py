"""The sweep card (sweep.json): the full record of a search, from which the winner can be chosen again."""

from collections.abc import Mapping, Sequence
from typing import Any

from proxytune.tuning.export.choose import Selection
from proxytune.tuning.journal.facts import first_facts
from proxytune.tuning.spec.study_spec import OF_THE_MACHINE
from proxytune.tuning.store.attributes import SECONDS
from proxytune.tuning.store.confirmation import Confirmation
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.records import TrialRecord, strict_json
from proxytune.tuning.store.study import Study


def sweep_card(
    study: Study,
    records: Sequence[TrialRecord],
    selection: Selection,
    confirmation: Confirmation | None,
    openings: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """The card as strict JSON.

    Args:
        study: the study, for its spec and budget.
        records: all trials.
        selection: the chosen trial and the rule that chose it.
        confirmation: its confirmation, if any.
        openings: openings of the test split, each with `at` and `by`.
        data: fingerprint and conventions of the task's data.
    """
    spec = study.spec
    search = spec.search
    with storage_errors():
        seconds = study.attributes.get(SECONDS)
    card = {
        "study": study.name,
        "spec": spec.model_dump(mode="json", exclude=OF_THE_MACHINE),
        "seeds": {
            "sampler": search.sampler.seed,
            "training": spec.seed,
            "confirmation": list(confirmation.seeds) if confirmation else [],
        },
        "budget": {
            "trials": study.budget,
            "steps_per_trial": spec.training["steps"],
            "max_steps": search.max_steps,
            "max_seconds": search.max_seconds,
            "spent_trials": len(records),
            "spent_steps": sum(record.step for record in records),
            "spent_seconds": seconds,
        },
        "selection": {
            "rule": selection.rule,
            "text": selection.text,
            "objectives": dict(selection.objectives),
            "constraints": dict(search.constraints),
            "limits": dict(selection.limits),
            "trial": selection.trial,
        },
        "data": dict(data),
        "searched_with": _driver_facts(study),
        "test_openings": [dict(opening) for opening in openings],
        "confirmation": None if confirmation is None else confirmation.to_json(),
        "trials": [record.to_json() for record in records],
    }
    return dict(strict_json(card))


def _driver_facts(study: Study) -> dict[str, Any]:
    """Versions and hardware of the first driver; empty if the journal does not record them."""
    facts = first_facts(study.folder / "outbox")
    return {name: facts[name] for name in ("git_revision", "versions", "hardware") if name in facts}
