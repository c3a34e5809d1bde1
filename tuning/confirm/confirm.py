"""Confirms a winner: candidates race on fresh seeds, their speed is measured, and the winner is tested once.

All results are written to the study's storage under its lease: each retraining when it ends (in NAME.confirm), each
opening of the test split before it happens, its result, and the confirmation. A killed confirmation can be resumed.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from proxytune.tuning.confirm.candidates import SEED, candidates, fresh_seeds, with_named, without_seed
from proxytune.tuning.confirm.opening import Evaluate, Say, checksum, mean_and_interval, open_once, refuse
from proxytune.tuning.confirm.outcome import conclude
from proxytune.tuning.confirm.publish import publish
from proxytune.tuning.confirm.retraining import Plan, Race, retraining_spec, retrainings
from proxytune.tuning.errors import HeldError, ProxytuneError
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.run.provenance import data_facts, refuse_other_data
from proxytune.tuning.store.checkpoints import Checkpoints
from proxytune.tuning.store.confirmation import CONFIRMATION, Confirmation, TestResult, read_confirmation
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.test_split import read_openings
from proxytune.tuning.trial.data import prepare_task

if TYPE_CHECKING:
    from proxytune.tuning.cluster.session import RaySession


def confirm_study(
    study: Study,
    *,
    top: int,
    num_seeds: int,
    who: str,
    also: Sequence[int] = (),
    again: bool = False,
    address: str = "local",
    watch: Any = None,
    say: Say = lambda line: None,
) -> Confirmation:
    """Retrain the `top` best candidates from `num_seeds` fresh seeds each, choose the winner and test it; or resume.

    Args:
        study: a study whose search is not running.
        top: number of candidates; all of them if the study has fewer.
        num_seeds: seeds of each candidate, at least 2.
        who: the user who opens the test split, for the record.
        also: numbers of further candidates, such as an enqueued reference, whatever their value.
        again: open the test split even if it has been opened before.
        address: the Ray cluster, as for `run_study`.
        watch: progress of the retrainings, as for `run_study`.
        say: called with progress messages.

    Raises:
        InputError: there is no candidate, a trial of `also` cannot be one, the data differs from the search's, or the
            test split was opened before.
        HeldError: the study is being run or confirmed.
        Interrupted: the same call resumes.
        ProxytuneError: retrainings failed, or every candidate was eliminated.
        StorageError: the storage failed, or a retraining's checkpoint is damaged.
    """
    from proxytune.tuning.cluster.session import ray_session

    with ExitStack() as stack:
        lease = Lease(study.storage, study.name)
        lease.acquire()
        stack.callback(lease.release)
        refuse_other_data(study, data_facts(prepare_task(study.spec.task)))
        best = candidates(study, top)
        if len(best) < top:
            say(f"study {study.name} has {len(best)} candidates, not {top}; all of them are confirmed")
        chosen = {trial.number: trial for trial in with_named(study, best, also)}
        for number in set(also) - chosen.keys():
            say(f"trial {number} has the configuration of another candidate, which is confirmed instead")
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
            models = [trials[confirmation.winner, seed] for seed in confirmation.best.seeds]
            checkpoints = [retraining.checkpoints(model) for model in models]
            evaluate = functools.partial(_evaluate_on_ray, study, session)
            return record(study, confirmation, checkpoints, evaluate, who=who, again=again, say=say)


def record(
    study: Study,
    confirmation: Confirmation,
    checkpoints: Sequence[Checkpoints],
    evaluate: Evaluate,
    *,
    who: str,
    again: bool,
    say: Say,
) -> Confirmation:
    """Store the confirmation, test its winner, and publish both to the journal and MLflow.

    Args and errors: see `result_on_test`; StorageError also if the storage or the journal cannot be written.
    """
    _store(study, confirmation)
    test = result_on_test(study, confirmation, checkpoints, evaluate, who=who, again=again, say=say)
    tested = replace(confirmation, test=test)
    publish(study, tested)
    _store(study, tested)
    return tested


def _already(study: Study, plan: Plan) -> Confirmation | None:
    """The finished confirmation of the same plan, if there is one.

    Raises:
        InputError: the test split was opened for another plan.
    """
    known = read_confirmation(study)
    openings = read_openings(study)
    wanted = _planned(plan.candidates, plan.seeds)
    if known is not None and known.test is not None and _planned_by(known) == wanted:
        return known
    if openings and openings[-1]["subject"].get("plan") != wanted:
        refuse(study, openings)
    return None


def _planned_by(confirmation: Confirmation) -> dict[str, list[int]]:
    return _planned((candidate.trial for candidate in confirmation.candidates), confirmation.seeds)


def _planned(candidates: Iterable[int], seeds: Iterable[int]) -> dict[str, list[int]]:
    return {"candidates": sorted(candidates), "seeds": list(seeds)}


def efficiency_folder(study: Study) -> Path:
    """The folder of measured speeds of a study's configurations, shared with the search."""
    return study.folder / "efficiency"


def _store(study: Study, confirmation: Confirmation) -> None:
    with storage_errors():
        study.optuna.set_user_attr(CONFIRMATION, confirmation.to_json())


def _measure(
    study: Study, chosen: Mapping[int, FrozenTrial], session: "RaySession", say: Say
) -> dict[int, dict[str, float]]:
    """Measure each candidate's efficiency on a node with all cores and GPUs reserved."""
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
    """Convert an error on a worker into a one-line ProxytuneError."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise ProxytuneError(f"{what}: {str(error).strip().splitlines()[-1]}") from None


def result_on_test(
    study: Study,
    confirmation: Confirmation,
    checkpoints: Sequence[Checkpoints],
    evaluate: Evaluate,
    *,
    who: str,
    again: bool,
    say: Say,
) -> TestResult:
    """The winner's result on the test split, obtained by `open_once`.

    Args:
        checkpoints: checkpoints of the winner's retrainings, in the order of its seeds.
        evaluate: called like `accuracies_on_test`, with the models (spec and checkpoints), `by` and `reason`.

    Raises:
        InputError: the split was opened before for other models, and `again` is false.
        StorageError: a checkpoint is missing or damaged.
    """
    winner = confirmation.best
    subject = {
        "trial": winner.trial,
        "models": [checksum(stored) for stored in checkpoints],
        "plan": _planned_by(confirmation),
    }
    specs = [study.spec.trial(winner.params | {SEED: seed}) for seed in winner.seeds]
    models = list(zip(specs, checkpoints, strict=True))
    result = open_once(
        study,
        subject,
        f"trial {winner.trial}",
        functools.partial(evaluate, models),
        who=who,
        again=again,
        say=say,
    )
    mean, bounds = mean_and_interval(result["values"])
    values = tuple(result.pop("values"))
    return TestResult(
        trial=winner.trial, seeds=winner.seeds, values=values, mean=mean, interval=bounds, **result
    )


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
