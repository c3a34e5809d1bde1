"""Confirming a winner: its candidates race on fresh seeds, are measured alone on a machine, and the best is tested once.

What is written when, in the study's own storage and under its lease: every retraining as it ends (in NAME.confirm); each
opening of the test split before it is opened; its result; the confirmation. So it can be killed anywhere and goes on.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial

from proxytune.tuning.confirm.candidates import SEED, candidates, fresh_seeds, without_seed
from proxytune.tuning.confirm.publish import publish
from proxytune.tuning.confirm.racing import clearly_worse, interval, race
from proxytune.tuning.confirm.retraining import Plan, Point, Race, measured, retraining_spec, retrainings
from proxytune.tuning.errors import HeldError, InputError, ProxytuneError, StorageError
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.spec.constraints import parse_constraint, violation
from proxytune.tuning.spec.metrics import MEMORY, bounds_of
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.checkpoints import MANIFEST, checkpoint_paths
from proxytune.tuning.store.confirmation import (
    CONFIRMATION,
    Candidate,
    Confirmation,
    TestResult,
    read_confirmation,
    stored_test,
)
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.object_store import Folder
from proxytune.tuning.store.study import Study, trial_folder
from proxytune.tuning.store.summary import outcome_of
from proxytune.tuning.store.test_split import OPENINGS, read_openings

if TYPE_CHECKING:
    from proxytune.tuning.cluster.session import RaySession

CHEAPNESS = (MEMORY, "flops_per_sequence")
"""What decides between tied candidates, the first that differs."""

Say = Callable[[str], None]
Evaluate = Callable[..., Iterator[tuple[int, float]]]


def confirm_study(
    study: Study,
    *,
    top: int,
    num_seeds: int,
    who: str,
    again: bool = False,
    address: str = "local",
    watch: Any = None,
    say: Say = lambda line: None,
) -> Confirmation:
    """Confirm the study's `top` best candidates on `num_seeds` fresh seeds each and test the winner, or go on with it.

    Args:
        study: a study whose search is not running.
        top: how many candidates; with fewer in the study, those.
        num_seeds: seeds of each candidate, at least 2.
        who: opens the test split; goes into the record.
        again: open the test split although it has been opened before.
        address: the Ray cluster, as for `run_study`.
        watch: progress of the retrainings, as for `run_study`.
        say: is told in a line what goes on.

    Raises:
        InputError: no candidate; the test split was opened and this would open it again.
        HeldError: the study is being run or confirmed.
        Interrupted: the same call goes on.
        ProxytuneError: retrainings failed, or no candidate held what it promised.
        StorageError: the storage failed, or a retraining's checkpoint is damaged.
    """
    from proxytune.tuning.cluster.session import ray_session

    with ExitStack() as stack:
        lease = Lease(study.storage, study.name)
        lease.acquire()
        stack.callback(lease.release)
        chosen = {trial.number: trial for trial in candidates(study, top)}
        if len(chosen) < top:
            say(f"--top {top}: study {study.name} has {len(chosen)} candidates; all of them are confirmed")
        plan = Plan(
            {number: without_seed(trial) for number, trial in chosen.items()}, fresh_seeds(study, num_seeds)
        )
        if not again and (known := _already(study, plan)) is not None:
            return known
        spec = retraining_spec(study.spec, plan)
        retraining = run_study(
            spec, address=address, make_controller=functools.partial(Race, plan), watch=watch
        )
        trials = retrainings(retraining.trials())
        with ray_session(address) as session:
            efficiency = _measure(study, chosen, session, say)
            confirmation = conclude(study, chosen, plan, trials, efficiency, len(retraining.trials()))
            if lease.lost:
                raise HeldError(f"study {study.name} was taken over by another driver")
            _store(study, CONFIRMATION, confirmation.to_json())
            publish(study, confirmation)
            models = [trials[confirmation.winner, seed] for seed in confirmation.best.seeds]
            folders = [trial_folder(spec, model.number) for model in models]
            evaluate = functools.partial(_evaluate_on_ray, study, session)
            test = result_on_test(study, confirmation, folders, evaluate, who=who, again=again, say=say)
        confirmation = replace(confirmation, test=test)
        _store(study, CONFIRMATION, confirmation.to_json())
        return confirmation


def _already(study: Study, plan: Plan) -> Confirmation | None:
    """The finished confirmation of the same plan. One of another plan, whose test is known, is in the way.

    Raises:
        InputError: so it is.
    """
    known = read_confirmation(study)
    openings = read_openings(study)
    wanted = _planned(plan.candidates, plan.seeds)
    if known is not None and known.test is not None and _planned_by(known) == wanted:
        return known
    if openings and openings[-1]["subject"]["plan"] != wanted:
        _refuse(study, openings)
    return None


def _planned_by(confirmation: Confirmation) -> dict[str, list[int]]:
    return _planned((candidate.trial for candidate in confirmation.candidates), confirmation.seeds)


def _planned(candidates: Iterable[int], seeds: Iterable[int]) -> dict[str, list[int]]:
    return {"candidates": sorted(candidates), "seeds": list(seeds)}


def _refuse(study: Study, openings: Sequence[Mapping[str, Any]]) -> None:
    last = openings[-1]
    raise InputError(
        f"study {study.name} opened its test split at {last['at']} for trial {last['subject']['trial']}; other "
        "candidates or seeds would open it a second time, which --again does and every export then says"
    )


def efficiency_folder(study: Study) -> Path:
    """Where a study keeps what its configurations were measured to cost; the search measures into it too."""
    return study.folder / "efficiency"


def _store(study: Study, name: str, value: Any) -> None:
    with storage_errors():
        study.optuna.set_user_attr(name, value)


def conclude(
    study: Study,
    chosen: Mapping[int, FrozenTrial],
    plan: Plan,
    trials: Mapping[Point, FrozenTrial],
    efficiency: Mapping[int, dict[str, float]],
    retrainings_in_all: int,
) -> Confirmation:
    """The outcome of finished retrainings, not tested yet.

    Raises:
        ProxytuneError: a retraining that was wanted failed, or no candidate is left.
    """
    objectives = study.spec.search.objectives
    objective, direction = next(iter(objectives.items()))
    values = measured(plan, trials, objectives)
    out = race(values)
    missing = [
        (number, seed)
        for number, own in values.items()
        for seed, value in zip(plan.seeds, own, strict=True)
        if value is None and number not in out
    ]
    if missing:
        number, seed = missing[0]
        raise ProxytuneError(
            f"{len(missing)} retrainings failed (the first: candidate {number} with seed {seed}; `proxytune trials "
            f"{study.name}.confirm` says why); the same command tries them again"
        )
    found = {
        number: _candidate(study, trial, plan, trials, out.get(number), efficiency.get(number, {}))
        for number, trial in chosen.items()
    }
    left = [number for number, candidate in found.items() if candidate.eliminated_after is None]
    if not left:
        reasons = "; ".join(f"trial {number}: {candidate.reason}" for number, candidate in found.items())
        raise ProxytuneError(f"no candidate of study {study.name} held what it promised: {reasons}")
    first = np.array([[own[0] for own in values[number] if own is not None] for number in left], np.float64)
    worse = clearly_worse(first.T[:, :, None])
    tied = [number for number, is_worse in zip(left, worse, strict=True) if not is_worse]
    sign = 1.0 if direction == "maximize" else -1.0

    def goodness(number: int) -> float:
        mean = found[number].mean
        return -np.inf if mean is None else sign * mean

    winner = min(
        tied,
        key=lambda number: (
            *(found[number].efficiency.get(name, np.inf) for name in CHEAPNESS),
            -goodness(number),
        ),
    )
    order = sorted(found, key=lambda number: (number not in left, -goodness(number)))
    return Confirmation(
        study=study.name,
        objective=objective,
        direction=direction,
        seeds=plan.seeds,
        candidates=tuple(found[number] for number in order),
        winner=winner,
        tied=tuple(number for number in order if number in tied),
        gap=sign * found[winner].search_value - goodness(winner),
        retrainings=retrainings_in_all,
        test=None,
    )


def _candidate(
    study: Study,
    trial: FrozenTrial,
    plan: Plan,
    trials: Mapping[Point, FrozenTrial],
    eliminated_after: int | None,
    efficiency: dict[str, float],
) -> Candidate:
    objective = next(iter(study.spec.search.objectives))
    seeds = plan.seeds[:eliminated_after]
    own = {seed: trials[trial.number, seed] for seed in seeds}
    broken = [seed for seed, retraining in own.items() if outcome_of(retraining) is not Outcome.COMPLETE]
    reports = [
        retraining.user_attrs[END]["metrics"] for seed, retraining in own.items() if seed not in broken
    ]
    values = tuple(float(report[objective]) for report in reports)
    metrics = {
        name: float(np.mean([report[name] for report in reports]))
        for name in (reports[0] if reports else {})
        if all(name in report for report in reports)
    }
    reason = ""
    if broken:
        reason = f"{outcome_of(own[broken[0]])} with seed {broken[0]}"
    elif eliminated_after is not None:
        reason = "clearly worse than another one"
    else:
        rules = [parse_constraint(*item) for item in study.spec.search.constraints.items()]
        over = [rule.metric for rule in rules if violation([rule], metrics)]
        if over:
            eliminated_after = len(seeds)
            reason = f"its mean {over[0]} of {metrics[over[0]]:.4g} breaks the constraint"
    return Candidate(
        trial=trial.number,
        params=dict(trial.params),
        search_value=float(trial.values[0]),
        seeds=tuple(seed for seed in seeds if seed not in broken),
        values=values,
        mean=float(np.mean(values)) if values else None,
        interval=interval(values, bounds_of(objective)),
        eliminated_after=eliminated_after,
        reason=reason,
        metrics=metrics,
        efficiency=efficiency,
    )


def _measure(
    study: Study, chosen: Mapping[int, FrozenTrial], session: "RaySession", say: Say
) -> dict[int, dict[str, float]]:
    """Each candidate's efficiency, measured on a node of which every core and GPU is reserved."""
    import ray

    from proxytune.tuning.trial.efficiency import stored_efficiency

    node = max(session.nodes(), key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)))
    measure: Any = ray.remote(max_retries=0)(stored_efficiency)
    measure = measure.options(num_cpus=node["CPU"], num_gpus=node.get("GPU", 0.0))
    found = {}
    for number, trial in chosen.items():
        say(f"measuring the efficiency of trial {number}")
        with _worker_errors(f"measuring the efficiency of trial {number}"):
            found[number] = ray.get(measure.remote(study.spec.trial(trial.params), efficiency_folder(study)))
    return found


@contextmanager
def _worker_errors(what: str) -> Iterator[None]:
    """Speak of an error on a worker in one line: its own."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise ProxytuneError(f"{what}: {str(error).strip().splitlines()[-1]}") from None


def result_on_test(
    study: Study,
    confirmation: Confirmation,
    folders: Sequence[Folder],
    evaluate: Evaluate,
    *,
    who: str,
    again: bool,
    say: Say,
) -> TestResult:
    """The winner's result on the test split: known already, or from an opening that is recorded before it.

    An opening that was recorded and has no result (killed in between) is gone on with for the very same models: nobody
    has seen what is in it, and it can only come out the same.

    Args:
        folders: where the checkpoints of the winner's retrainings are, in the order of its seeds.
        evaluate: called with the models (spec and folder), by and reason; gives what `accuracies_on_test` does.

    Raises:
        InputError: the split was opened before for other models, and not `again`.
        StorageError: a checkpoint is gone.
    """
    winner = confirmation.best
    subject = {
        "trial": winner.trial,
        "models": [_checksum(folder) for folder in folders],
        "plan": _planned_by(confirmation),
    }
    openings = read_openings(study)
    same = bool(openings) and openings[-1]["subject"] == subject
    if same and openings[-1]["result"] is not None and not again:
        return stored_test(openings[-1]["result"])
    if openings and not same and not again:
        _refuse(study, openings)
    if not same or openings[-1]["result"] is not None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        openings.append({"at": now, "by": who, "subject": subject, "result": None})
        _store(study, OPENINGS, openings)
    opening = openings[-1]
    specs = [study.spec.trial(winner.params | {SEED: seed}) for seed in winner.seeds]
    say(f"the test split is opened for trial {winner.trial} (opening {len(openings)} of this study)")
    reason = f"confirm {study.name}: trial {winner.trial}, opening {len(openings)}"
    values: list[float] = []
    num_examples = 0
    for num_examples, accuracy in evaluate(
        list(zip(specs, folders, strict=True)), by=opening["by"], reason=reason
    ):
        values.append(accuracy)
        say(f"tested {len(values)} of {len(specs)} models on {num_examples:,} examples")
    result = TestResult(
        trial=winner.trial,
        seeds=winner.seeds,
        values=tuple(values),
        mean=float(np.mean(values)),
        interval=interval(values, bounds_of("val_accuracy")),
        num_examples=num_examples,
        openings=len(openings),
        opened_at=opening["at"],
        opened_by=opening["by"],
    )
    opening["result"] = asdict(result)
    _store(study, OPENINGS, openings)
    return result


def _checksum(folder: Folder) -> str:
    """The sha256 of a retraining's newest checkpoint, as its manifest says."""
    try:
        manifest = json.loads((next(checkpoint_paths(folder)) / MANIFEST).read_text(encoding="utf-8"))
        return str(manifest["sha256"])
    except (StopIteration, OSError, ValueError, KeyError):
        raise StorageError(f"{folder}: the retraining's checkpoint is gone or damaged") from None


def _evaluate_on_ray(
    study: Study, session: "RaySession", models: Sequence[Any], *, by: str, reason: str
) -> Iterator[tuple[int, float]]:
    import ray

    from proxytune.tuning.confirm.test_split import accuracies_on_test

    needs = session.trial_resources(study.spec.resources)
    evaluate: Any = ray.remote(num_returns="streaming", max_retries=0)(accuracies_on_test)
    evaluate = evaluate.options(num_cpus=needs["cpu"], num_gpus=needs["gpu"])
    with _worker_errors("evaluating on the test split"):
        for reference in evaluate.remote(models, by, reason, study.folder):
            yield ray.get(reference)
