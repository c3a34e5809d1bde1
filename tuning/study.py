"""A study from start to end: open or resume it, run it on Ray, leave everything where the next start finds it."""

import functools
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.data import prepare_task
from proxytune.tuning.errors import (
    HeldError,
    InputError,
    Interrupted,
    OtherSpecError,
    ProxytuneError,
    StorageError,
)
from proxytune.tuning.provenance import data_facts, driver_facts
from proxytune.tuning.search.ledger import BUDGET, END, ENQUEUED_BY, PAUSE, SECONDS, STOP, WARM_START, Ledger
from proxytune.tuning.search.warm_start import Earlier, take
from proxytune.tuning.spec import StudySpec, parse_study
from proxytune.tuning.storage import Lease, database_url, holds_studies, open_storage, storage_errors
from proxytune.tuning.summary import summary
from proxytune.tuning.tracking.outbox import Outbox
from proxytune.tuning.tracking.recovery import recover
from proxytune.tuning.tracking.shipper import Shipper, default_uri
from proxytune.tuning.trial.here import check_data, check_device
from proxytune.tuning.trial.object_store import try_object_store

SPEC = "spec"  # user attribute of the study: the resolved study file
MAY_DIFFER = {"resources", "tracking", "storage", "database"}
"""Sections that a resumed study may change, since no result depends on them."""
DRAIN_SECONDS = 60.0
"""How long a finished study waits for MLflow before it leaves the rest to `proxytune run` or `track sync`."""


class Study:
    """A study in its storage: what `run` wrote and every reading verb shows."""

    def __init__(self, spec: StudySpec, storage: RDBStorage, study: optuna.Study) -> None:
        self.spec = spec
        self.storage = storage
        self.optuna = study

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def folder(self) -> Path:
        return self.spec.folder

    @property
    def budget(self) -> int:
        """The number of trials it may take in all."""
        return int(self.optuna.user_attrs[BUDGET])

    @property
    def tracking_uri(self) -> str:
        return self.spec.tracking.uri or default_uri(self.spec.storage.absolute())

    def trials(self) -> list[FrozenTrial]:
        """All trials by number; not to be changed."""
        with storage_errors():
            return self.optuna.get_trials(deepcopy=False)

    def best(self) -> list[FrozenTrial]:
        """The winner, or with several objectives the Pareto front; feasible trials of the full budget only."""
        with storage_errors():
            if not any(trial.state == TrialState.COMPLETE for trial in self.trials()):
                return []
            if len(self.optuna.directions) > 1:
                return self.optuna.best_trials
            try:
                return [self.optuna.best_trial]
            except ValueError:  # none is feasible
                return []


def open_study(name: str, storage_folder: Path, database: str | None = None) -> Study:
    """An existing study, to read or to export from.

    Raises:
        InputError: there is none of that name, and which there are.
        StorageError: the storage does not answer.
    """
    folder = storage_folder.absolute() / name
    if database is None and not (folder / "study.db").exists():
        known = sorted(path.parent.name for path in storage_folder.glob("*/study.db"))
        there = f"studies there: {', '.join(known)}" if known else "no study there yet"
        raise InputError(f"no study {name} in {storage_folder.absolute()}; {there}")
    storage = open_storage(database_url(folder, database), create=False)
    return study_in(storage, name, storage_folder, database)


def study_in(storage: RDBStorage, name: str, storage_folder: Path, database: str | None) -> Study:
    """An existing study of an open storage.

    Raises:
        InputError: there is none of that name, or proxytune did not make it.
        StorageError: the storage does not answer.
    """
    with storage_errors():
        try:
            study = optuna.load_study(
                study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler()
            )
        except KeyError:
            raise InputError(f"no study {name} in {database or storage_folder.absolute() / name}") from None
        stored = study.user_attrs.get(SPEC)
    if stored is None:
        raise InputError(f"study {name} was not made by proxytune")
    values = json.loads(stored) | {"storage": str(storage_folder.absolute()), "database": database}
    return Study(parse_study(values, where=f"study {name}"), storage, study)


def earlier_study(spec: StudySpec) -> Earlier | None:
    """What a new study of this spec takes from its `search.warm_start`, if it names one.

    Raises:
        InputError: there is no such study, or it is this one.
        StorageError: its storage does not answer.
    """
    wish = spec.search.warm_start
    if wish is None:
        return None
    storage, database = wish.storage or spec.storage, wish.database or spec.database
    if wish.study == spec.name and (storage.absolute(), database) == (spec.storage.absolute(), spec.database):
        raise InputError(f"search.warm_start.study: {wish.study} is this study itself")
    try:
        source = open_study(wish.study, storage, database)
    except InputError as error:
        raise InputError(f"search.warm_start.study: {error}") from None
    return take(spec, source.spec, source.trials(), END)


def begin_study(spec: StudySpec) -> Study:
    """Create the study, or open the one of the same name if its spec is the same or has a larger budget.

    Raises:
        OtherSpecError: the stored spec differs, and where.
        StorageError: the storage cannot be written.
    """
    try:
        spec.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{spec.folder}: {error.strerror} (as user {os.getuid()})") from None
    storage = open_storage(database_url(spec.folder, spec.database), create=True)
    with storage_errors():
        study = optuna.create_study(
            study_name=spec.name,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(),  # never asked: the ledger sets one for each trial
            directions=list(spec.search.objectives.values()),
            load_if_exists=True,
        )
        stored = study.user_attrs.get(SPEC)
        if stored is None:
            earlier = earlier_study(spec)
            for params in spec.search.enqueue:
                study.enqueue_trial(dict(params))
            if earlier is not None:
                study.set_user_attr(WARM_START, earlier.to_json())
                for one in earlier.first:
                    who = f"trial {one['trial']} of {earlier.study}"
                    study.enqueue_trial(one["params"], {ENQUEUED_BY: who}, skip_if_exists=True)
            study.set_user_attr(BUDGET, spec.search.trials)
        else:
            # keys newer than the stored spec: their defaults
            check_same(parse_study(json.loads(stored), where=f"study {spec.name}"), spec)
            budget = max(spec.search.trials, int(study.user_attrs[BUDGET]))
            study.set_user_attr(BUDGET, budget)
        study.set_user_attr(SPEC, spec.model_dump_json())
        study.set_user_attr(STOP, None)
        study.set_user_attr(PAUSE, None)
    return Study(spec, storage, study)


def check_study(spec: StudySpec) -> list[str]:
    """What a start of this study would find, for people; nothing is written.

    Raises:
        InputError: its budget is spent, or what `search.warm_start` names is not there.
        OtherSpecError: a study of that name exists with another spec.
        StorageError: the storage does not answer.
    """
    url = database_url(spec.folder, spec.database)
    if not holds_studies(url):
        return _earlier_lines(earlier_study(spec))
    storage = open_storage(url, create=False)
    with storage_errors():
        names = optuna.get_all_study_names(storage)
    if spec.name not in names:
        return _earlier_lines(earlier_study(spec))
    study = study_in(storage, spec.name, spec.storage, spec.database)
    check_same(study.spec, spec)
    trials, budget = study.trials(), max(study.budget, spec.search.trials)
    ended = [trial for trial in trials if END in trial.user_attrs]
    steps = sum(trial.user_attrs[END]["step"] for trial in ended)
    seconds = float(study.optuna.user_attrs.get(SECONDS, 0.0))
    for key, spent, limit in (
        ("trials", len(ended), budget),
        ("max_steps", steps, spec.search.max_steps),
        ("max_seconds", seconds, spec.search.max_seconds),
    ):
        if limit is not None and spent >= limit:
            raise InputError(
                f"search.{key}: the budget of study {spec.name} is spent ({spent:g} of {limit:g}); raise it to go on, "
                "or give the study another name"
            )
    stored = study.optuna.user_attrs.get(WARM_START)
    lines = _earlier_lines(Earlier.from_json(stored) if stored else None)
    return [f"study {spec.name} exists and goes on: {len(ended)} of {budget} trials have ended", *lines]


def _earlier_lines(earlier: Earlier | None) -> list[str]:
    return [] if earlier is None else [earlier.summary(), *earlier.notes]


def run_study(
    spec: StudySpec,
    *,
    address: str = "local",
    trainable: type | None = None,
    make_ledger: Callable[..., Ledger] = Ledger,
    watch: Callable[[Study, Ledger, Shipper], Any] | None = None,
) -> Study:
    """Run the study until its budget is met: start it, or go on where any earlier driver left it.

    `address` is the Ray cluster to run on (see ray_session); `trainable` replaces the training (benchmarks and fault
    tests), `make_ledger` the ledger (by a subclass, say); `watch` is called once everything is set up and may return
    a context manager that is held while the search runs (live progress).

    Raises:
        InputError: the study file cannot be run here.
        DataError: the task's data is missing or damaged.
        HeldError: another driver runs this study.
        StorageError: the storage failed; what was acknowledged before is safe.
        Interrupted: SIGINT or SIGTERM; the same call goes on.
        ProxytuneError: the budget is spent and no trial has completed.
    """
    if address != "local":
        from proxytune.tuning.cluster.ray_session import find_cluster

        find_cluster(address)  # before anything is written
    if spec.checkpoints is not None:
        try_object_store(spec.checkpoints)
    prepared = None
    if trainable is None:
        if address == "local":
            check_device(spec)
        prepared = prepare_task(spec.task)
        check_data(spec, prepared)
    study = begin_study(spec)
    with ExitStack() as stack:
        lease = Lease(study.storage, spec.name)
        lease.acquire()
        stack.callback(lease.release)
        try:
            outbox = Outbox(spec.folder / "outbox")
        except OSError as error:
            raise StorageError(f"{spec.folder / 'outbox'}: {error.strerror}") from None
        stack.callback(outbox.close)
        recover(study, outbox)
        ledger = make_ledger(spec, study.optuna, study.storage, outbox, data_facts(prepared))
        with storage_errors():
            ledger.reconcile()
        now_ms = time.time_ns() // 1_000_000
        outbox.append(
            {
                "kind": "study",
                "time_ms": now_ms,
                "study": spec.name,
                "spec": spec.model_dump(mode="json"),
                "facts": driver_facts(prepared),
            }
        )
        shipper = Shipper(spec.folder / "outbox", study.tracking_uri, spec.tracking.experiment)
        shipper.start()
        stack.callback(shipper.close, DRAIN_SECONDS)
        stack.push(functools.partial(_end_of_failure, outbox))
        lease.on_lost = lambda: ledger.stop("another driver took the study over")
        if not ledger.finished:
            try:
                held = (lambda: watch(study, ledger, shipper)) if watch else None
                _search(study, ledger, address, trainable, held)
            finally:
                if not lease.lost:
                    with storage_errors():
                        ledger.requeue_live()
        if lease.lost:
            raise HeldError(f"study {spec.name} was taken over by another driver")
        status = "interrupted" if ledger.stopping else "finished"
        outbox.append(
            {
                "kind": "study_end",
                "time_ms": time.time_ns() // 1_000_000,
                "status": status,
                "summary": summary(study),
            }
        )
        if ledger.stopping:
            raise Interrupted(
                f"study {spec.name} stopped ({ledger.stopping}); the same command goes on where it was"
            )
    trials = study.trials()
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        reason = next((trial.user_attrs[END]["reason"] for trial in trials if END in trial.user_attrs), "")
        raise ProxytuneError(
            f"none of the {len(trials)} trials of study {spec.name} reached its full budget; the first one: {reason}"
        )
    return study


def _end_of_failure(outbox: Outbox, _kind: object, error: BaseException | None, _trace: object) -> None:
    """Say in the journal that the driver ends by an error, so that MLflow does not show it running."""
    if error is not None and not isinstance(error, Interrupted):
        reason = " ".join(str(error).split()) or type(error).__name__
        with suppress(OSError):  # the disk may be what failed
            now_ms = time.time_ns() // 1_000_000
            outbox.append(
                {"kind": "study_end", "time_ms": now_ms, "status": "failed", "reason": reason[:1000]}
            )


def _search(
    study: Study,
    ledger: Ledger,
    address: str,
    trainable: type | None,
    watch: Callable[[], Any] | None,
) -> None:
    from ray import tune

    from proxytune.tuning.cluster.ray_session import ray_session
    from proxytune.tuning.cluster.ray_watch import watch_ray
    from proxytune.tuning.search.packing import packed_slots, trials_a_gpu
    from proxytune.tuning.search.searcher import Adapter, LedgerScheduler, LedgerSearcher, with_shares
    from proxytune.tuning.trial.gpu import smallest_gpu_mib
    from proxytune.tuning.trial.trainable import TrialTrainable

    spec = study.spec
    with ray_session(address) as session, ExitStack() as stack:
        resources = session.trial_resources(spec.resources)
        adapter = Adapter(ledger, lambda: session.slots(resources, spec.resources.max_concurrent))
        kind: Any = trainable or TrialTrainable
        gpu_mib = smallest_gpu_mib() if spec.resources.gpu == "auto" and resources["gpu"] else None
        if gpu_mib is not None:
            cpu, most = resources["cpu"], spec.resources.max_concurrent
            ledger.pack(gpu_mib, trials_a_gpu(session.nodes(), cpu))
            adapter.slots = lambda: packed_slots(
                session.nodes(), cpu, ledger.gpus_taken, len(ledger.live), most
            )
            kind = with_shares(kind, cpu)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the ledger tells of trials that fail
        stack.enter_context(_graceful_stop(ledger))
        if watch is not None:
            stack.enter_context(watch())
        over = threading.Event()
        failures: list[Exception] = []

        def died(reason: str) -> None:
            ledger.stop(reason)
            over.set()

        def search() -> None:
            try:
                tune.run(
                    kind,
                    name=spec.name,
                    search_alg=LedgerSearcher(adapter),
                    scheduler=LedgerScheduler(adapter),
                    num_samples=-1,
                    resources_per_trial=resources if gpu_mib is None else None,
                    reuse_actors=True,
                    max_failures=spec.resources.max_failures,
                    raise_on_failed_trial=False,
                    storage_path=str(session.scratch / "tune"),
                    trial_name_creator=lambda trial: f"trial-{trial.config['number']}",
                    trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}-{trial.trial_id}",
                    verbose=0,
                )
            except Exception as error:
                failures.append(error)
            over.set()

        stack.enter_context(watch_ray(died, local=address == "local"))
        # In a thread of its own: calls into a Ray that has died hang, and signals are not heard in them.
        threading.Thread(target=search, name="search", daemon=True).start()
        try:
            over.wait()
        finally:
            adapter.close()
        if failures and ledger.stopping is None:
            raise failures[0]
        if adapter.error is not None:
            with storage_errors():
                raise adapter.error


@contextmanager
def _graceful_stop(ledger: Ledger) -> Iterator[None]:
    """First SIGINT or SIGTERM: every trial stops at its next turn with a checkpoint. Second: leave at once."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if ledger.stopping is not None:
            raise KeyboardInterrupt
        ledger.stop(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals cannot be handled here
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass  # what was out with a worker goes on from its newest checkpoint
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_same(known: StudySpec, wanted: StudySpec) -> None:
    """Refuse to resume a known study under a spec that would make the results incomparable.

    Raises:
        OtherSpecError: they differ, and where.
    """
    stored, new = (json.loads(spec.model_dump_json()) for spec in (known, wanted))
    for spec in (stored, new):
        spec["task"] = spec["task"] | {
            "root": None
        }  # data may move; its fingerprint tells whether it changed
        for section in MAY_DIFFER:
            spec.pop(section, None)
    for search in (stored["search"], new["search"]):
        for budget in ("trials", "max_seconds", "max_steps", "enqueue"):
            search.pop(budget, None)  # a larger budget extends
    differences = _differences(stored, new)
    if differences:
        raise OtherSpecError(
            f"study {wanted.name} exists with another spec: {'; '.join(differences[:3])}"
            f"{f' (and {len(differences) - 3} more)' if len(differences) > 3 else ''}; "
            "give the study another name or set these back"
        )


def _differences(stored: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(stored, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(stored.keys() | new.keys())
            for line in _differences(stored.get(key), new.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if stored == new else [f"{path} was {stored}, now {new}"]
