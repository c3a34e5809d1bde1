"""Drives a study: holds its lease, runs it on Ray, and stores all state for the next driver."""

import functools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from proxytune.datasets import PreparedTask
from proxytune.tuning.errors import RESUMED, HeldError, Interrupted, ProxytuneError, Stopped, one_line
from proxytune.tuning.journal.events import StudyEnded, StudyStarted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.recovery import open_journal, recover
from proxytune.tuning.run.begin import hold_study
from proxytune.tuning.run.journal import FencedOutbox
from proxytune.tuning.run.provenance import data_facts, driver_facts
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.outcome import StudyStatus
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.errors import storage_errors
from proxytune.tuning.store.folder import Folder, try_folder
from proxytune.tuning.store.importing import importing
from proxytune.tuning.store.interrupts import uninterrupted
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.steering import is_stopping
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import summary
from proxytune.tuning.tracking.shipper import Shipper
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.local_checks import check_data, check_device

if TYPE_CHECKING:
    from proxytune.tuning.cluster.bridge import RayBridge
    from proxytune.tuning.cluster.session import RaySession

DRAIN_SECONDS = 60.0
"""How long a finished study waits for MLflow; `proxytune run` or `track sync` ships the remaining events."""

SHIPPING_DELAY_SECONDS = 15.0
"""Delay of the import of MLflow (4 s of CPU), so that Ray and the first trials start sooner."""


def run_study(
    spec: StudySpec,
    *,
    address: str = "local",
    trainable: type | None = None,
    make_controller: Callable[..., StudyController] = StudyController,
    watch: Callable[[Study, StudyController, Shipper], Any] | None = None,
    age: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
    session: "AbstractContextManager[RaySession] | None" = None,
) -> Study:
    """Start or resume the study and run it until its budget is spent.

    Args:
        address: the Ray cluster to run on (see `ray_session`).
        trainable: replaces the training (benchmarks and fault tests).
        make_controller: creates the controller, such as a subclass.
        watch: called when everything is set up; returns a context manager that is active during the search.
        age: seconds since the run was started; stop and pause requests made since then apply.
        say: called with a message for each key of the spec and each earlier request without effect, and when Ray starts.
        session: of a Ray that is already starting (`early_session`); None: start one when it is needed.

    Raises:
        InputError: the study file cannot be run here.
        DataError: the task's data is missing or damaged.
        HeldError: another driver runs this study.
        StorageError: the storage failed; acknowledged results are safe.
        Interrupted: SIGINT or SIGTERM; the same call resumes.
        ProxytuneError: the budget is spent and no trial has completed.
    """
    began = time.monotonic()
    prepared = _check(spec, address, trainable)
    age += time.monotonic() - began
    with ExitStack() as stack:
        with uninterrupted():
            held = stack.enter_context(hold_study(spec, data=data_facts(prepared), age=age))
            study, lease = held.study, held.lease
            outbox = open_journal(study, functools.partial(FencedOutbox, lease=lease))
            stack.callback(outbox.close)
            recover(study, outbox)
            controller = make_controller(spec, study.optuna, study.storage, outbox, data_facts(prepared))
            controller.notes += outbox.problems
            for note in held.notes:
                say(note)
            with storage_errors():
                controller.reconcile()
            outbox.append(_started(study, spec, prepared))
            shipper = Shipper(spec.folder / "outbox", study.tracking_uri, spec.tracking.experiment)
            shipper.start(SHIPPING_DELAY_SECONDS)
            stack.callback(shipper.close, DRAIN_SECONDS)
            stack.push(functools.partial(_end_of_failure, outbox))
            lease.on_lost = lambda: controller.stop("another driver took the study over")
            finished = controller.finished  # reads the storage
        if not finished:
            if address == "local":
                say(f"starting Ray for study {spec.name}")
            watching = (lambda: watch(study, controller, shipper)) if watch else None
            try:
                _search(study, controller, address, trainable, watching, session)
            finally:
                if not lease.lost:
                    with storage_errors():
                        controller.requeue_live()
        with uninterrupted():
            _end(study, lease, controller, outbox)
    _require_a_complete_trial(study)
    return study


def _check(spec: StudySpec, address: str, trainable: type | None) -> PreparedTask | None:
    """Check that the study can run here, before anything is written; return its data if the trials train on it."""
    if address != "local":
        from proxytune.tuning.cluster.session import find_cluster

        find_cluster(address)
    if spec.checkpoints is not None:
        try_folder(Folder(spec.checkpoints))
    if trainable is not None:
        return None
    if address == "local":
        check_device(spec)
    prepared = prepare_task(spec.task)
    check_data(spec, prepared)
    return prepared


def _started(study: Study, spec: StudySpec, prepared: PreparedTask | None) -> StudyStarted:
    return StudyStarted(
        study=spec.name,
        spec=spec.model_dump(mode="json"),
        facts=driver_facts(prepared),
        budget=study.budget,
    )


def _end(study: Study, lease: Lease, controller: StudyController, outbox: Outbox) -> None:
    """Record in the journal how the search ended; raise HeldError or Interrupted if it was taken over or stopped."""
    if lease.lost:
        raise HeldError(f"study {study.spec.name} was taken over by another driver")
    status = StudyStatus.INTERRUPTED if controller.steering.stopping else StudyStatus.FINISHED
    facts = summary(study)
    outbox.append(StudyEnded(status=status, reason=facts["ended_because"] or "", summary=facts))
    if controller.steering.stopping:
        kind = Stopped if is_stopping(study) else Interrupted
        raise kind(f"study {study.spec.name} stopped ({controller.steering.stopping}); {RESUMED}")


def _require_a_complete_trial(study: Study) -> None:
    trials = study.trials()
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        reason = next((trial.user_attrs[END]["reason"] for trial in trials if END in trial.user_attrs), "")
        raise ProxytuneError(
            f"none of the {len(trials)} trials of study {study.spec.name} reached its full budget; the first ended: {reason}"
        )


def _end_of_failure(outbox: Outbox, _kind: object, error: BaseException | None, _trace: object) -> None:
    """Record in the journal that an error or a signal ended the driver, so that MLflow does not show it as running."""
    if error is not None and outbox.is_open:
        resumable = isinstance(error, KeyboardInterrupt | Interrupted)
        status = StudyStatus.INTERRUPTED if resumable else StudyStatus.FAILED
        reason = "a signal" if isinstance(error, KeyboardInterrupt) else one_line(error)
        with suppress(OSError, HeldError), uninterrupted():  # the disk may be what failed
            outbox.append(StudyEnded(status=status, reason=reason))


def _search(
    study: Study,
    controller: StudyController,
    address: str,
    trainable: type | None,
    watch: Callable[[], Any] | None,
    early: "AbstractContextManager[RaySession] | None",
) -> None:
    """Run trials on Ray until the controller has no further trials or is stopped."""
    from proxytune.tuning.cluster.session import TRAINING, ray_session

    spec = study.spec
    with ExitStack() as stack:
        if early is None:
            session = stack.enter_context(ray_session(address, () if trainable else TRAINING))
        # Importing Ray Tune takes 1.5 s of CPU; it happens here, while Ray and its workers start.
        with importing():
            from proxytune.tuning.cluster.bridge import RayBridge
            from proxytune.tuning.cluster.private import check_private
            from proxytune.tuning.cluster.ray_private import session_folder
            from proxytune.tuning.cluster.sharing import sharing
            from proxytune.tuning.cluster.trainable import TrialTrainable

        if early is not None:
            session = stack.enter_context(early)
        if address != "local":
            check_private(session_folder())
        resources = session.trial_resources(spec.resources)
        controller.hold(resources)
        bridge = RayBridge(controller, lambda: session.slots(resources, spec.resources.max_concurrent))
        kind: Any = trainable or TrialTrainable
        packed = _share_gpus(spec, session, bridge, resources, kind)
        stack.enter_context(_graceful_stop(controller))
        if address != "local":
            stack.enter_context(sharing(controller, study, session, resources))
        if watch is not None:
            stack.enter_context(watch())

        def tune() -> None:
            _tune(spec, session, bridge, packed or kind, None if packed else resources)

        try:
            failure = _in_thread(tune, controller, local=address == "local")
        finally:
            bridge.close()
        if failure is not None and controller.steering.stopping is None:
            cause = f"{type(failure).__name__}: {one_line(failure)}"
            raise Interrupted(f"Ray failed while running study {spec.name} ({cause}); {RESUMED}") from failure
        if bridge.error is not None:
            with storage_errors():
                raise bridge.error


def _in_thread(tune: Callable[[], None], controller: StudyController, *, local: bool) -> Exception | None:
    """Call `tune` in a thread and wait until it returns or Ray has died; return its error.

    Calls into a Ray that has died hang and block signal handlers.
    """
    from proxytune.tuning.cluster.watch import watch_ray

    over = threading.Event()
    failures: list[Exception] = []

    def died(reason: str) -> None:
        controller.stop(reason)
        over.set()

    def search() -> None:
        try:
            tune()
        except Exception as error:
            failures.append(error)
        over.set()

    with watch_ray(died, local=local):
        threading.Thread(target=search, name="search", daemon=True).start()
        over.wait()
    return failures[0] if failures else None


def _share_gpus(
    spec: StudySpec, session: "RaySession", bridge: "RayBridge", resources: Mapping[str, float], kind: Any
) -> Any:
    """With `gpu: auto`, assign GPU shares to trials and return the trainable that uses them; None: no GPU is shared."""
    from proxytune.tuning.cluster.bridge import with_shares
    from proxytune.tuning.cluster.gpus import smallest_gpu_mib
    from proxytune.tuning.search.packing import packed_slots, trials_per_gpu

    gpu_mib = smallest_gpu_mib() if spec.resources.gpu == "auto" and resources["gpu"] else None
    if gpu_mib is None:
        return None
    controller, cpu, most = bridge.controller, resources["cpu"], spec.resources.max_concurrent
    controller.pack(gpu_mib, trials_per_gpu(session.nodes(), cpu))
    bridge.slots = lambda: packed_slots(
        session.nodes(), cpu, controller.gpus_taken, len(controller.live), most
    )
    return with_shares(kind, cpu)


def _tune(
    spec: StudySpec, session: "RaySession", bridge: "RayBridge", kind: Any, resources: dict[str, float] | None
) -> None:
    """Run Ray Tune's loop; `resources` are those of each trial, None if the trainable defines them."""
    from ray import tune

    from proxytune.tuning.cluster.bridge import Silence, StudyScheduler, StudySearcher
    from proxytune.tuning.cluster.ray_private import never_wait_for_trials, use_waiting_workers

    use_waiting_workers()
    never_wait_for_trials()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the controller reports failed trials
    tune.run(
        kind,
        name=spec.name,
        search_alg=StudySearcher(bridge),
        scheduler=StudyScheduler(bridge),
        num_samples=-1,
        resources_per_trial=resources,
        reuse_actors=True,
        max_failures=spec.resources.max_failures,
        raise_on_failed_trial=False,
        storage_path=str(session.scratch / "tune"),
        trial_name_creator=lambda trial: f"trial-{trial.config['number']}",
        trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}-{trial.trial_id}",
        verbose=0,
        callbacks=[Silence()],
    )


@contextmanager
def _graceful_stop(controller: StudyController) -> Iterator[None]:
    """First SIGINT or SIGTERM: every trial stops at its next update with a checkpoint. Second: exit immediately."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if controller.steering.stopping is not None:
            raise KeyboardInterrupt
        controller.stop(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals cannot be handled here
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass  # running trials resume from their newest checkpoints
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
