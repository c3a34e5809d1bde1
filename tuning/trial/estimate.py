"""Estimate of a study's parameters, memory and time on this machine before it runs; cached."""

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxytune.tuning.spec.rungs import expected_steps
from proxytune.tuning.spec.space import Scalar
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.folder import write_file
from proxytune.tuning.trial.data import cache_folder

_TOKENS_PER_PASS = 8192
_MOST_CONFIGURATIONS = 12


@dataclass(frozen=True)
class Estimate:
    """Smallest and largest value of each quantity over the extreme configurations of a study; None: not measured."""

    parameters: tuple[int, int]
    memory_mib_per_sequence: tuple[float, float] | None  # predicted peak of a training step
    minutes: (
        tuple[float, float] | None
    )  # of the whole study, if all trials were like the fastest or the slowest

    def line(self) -> str:
        """The estimate as one line for the user."""
        parameters = f"{_between(*self.parameters)} parameters"
        if self.memory_mib_per_sequence is None or self.minutes is None:
            return f"{parameters}; memory and minutes are not measured yet: run `check --measure` (takes seconds)"
        low, high = self.minutes
        return (
            f"{parameters}, {_between(*self.memory_mib_per_sequence)} MiB per sequence in training, "
            f"about {_between(max(1, round(low)), max(1, round(high)))} min on this machine"
        )


def estimate(spec: StudySpec, *, measure: bool) -> Estimate:
    """Estimate the costs of the study's extreme configurations.

    Parameters are counted. Memory and time are read from the cache; with `measure`, missing values are predicted and
    measured, which loads torch and takes seconds, and cached. The time is based on passes over random full-length
    sequences and does not include evaluations.
    """
    trials = list(_extremes(spec))
    counts = [trial.model_config_for(trial.task.info()).num_parameters for trial in trials]
    costs = [_costs(trial, measure) for trial in trials]
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return Estimate((min(counts), max(counts)), None, None)
    steps = int(spec.training["steps"])
    total = expected_steps(spec.search.stopping, spec.rung_steps(), steps, spec.search.trials)
    slots = max(1, (os.cpu_count() or 1) // spec.resources.cpu)
    slots = min(slots, spec.resources.max_concurrent or slots, spec.search.trials)
    sequences = total * int(spec.training["batch_size"]) / slots
    minutes = [sequences / cost["sequences_per_second"] / 60 for cost in known]
    memory = [cost["train_memory_mib_per_sequence"] for cost in known]
    return Estimate((min(counts), max(counts)), (min(memory), max(memory)), (min(minutes), max(minutes)))


def _extremes(spec: StudySpec) -> Iterator[TrialSpec]:
    """The configurations with one searched key at an end of its domain, without duplicates of equal cost."""
    from proxytune.tuning.trial.profile import cost_spec

    first = dict(spec.search.enqueue[0]) if spec.search.enqueue else {}
    seen: set[str] = set()
    for key, domain in spec.search.space.items():
        for value in _ends(domain.corners()):
            trial = spec.trial({**first, key: value})
            cost = json.dumps(cost_spec(trial))
            if cost not in seen and len(seen) < _MOST_CONFIGURATIONS:
                seen.add(cost)
                yield trial


def _ends(values: Sequence[Scalar]) -> Sequence[Scalar]:
    """The smallest and the largest value if all are numbers, else all values."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return [min(numbers), max(numbers)] if len(numbers) == len(values) else values


def _costs(trial: TrialSpec, measure: bool) -> dict[str, float] | None:
    from proxytune.tuning.trial.profile import cost_spec

    versions = [importlib.metadata.version(package) for package in ("proxytune", "torch")]
    parts = json.dumps([cost_spec(trial), trial.resources.cpu, versions])
    path = cache_folder() / "costs" / f"{hashlib.sha256(parts.encode()).hexdigest()[:32]}.json"
    try:
        known: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        if not measure:
            return None
        known = _measured(trial)
        _keep(path, known)
    return known


def _measured(trial: TrialSpec) -> dict[str, float]:
    from proxytune.tuning.trial.efficiency import training_speed
    from proxytune.tuning.trial.profile import predicted_profile, trial_device

    return predicted_profile(trial, trial_device(trial)) | {
        "sequences_per_second": training_speed(trial, tokens=_TOKENS_PER_PASS)
    }


def _keep(path: Path, costs: dict[str, float]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(costs).encode())
    except OSError:  # the next estimate measures again
        return


def _between(low: float, high: float) -> str:
    low_text, high_text = (
        f"{value:,}" if isinstance(value, int) else f"{value:.3g}" for value in (low, high)
    )
    return low_text if low_text == high_text else f"{low_text} to {high_text}"
