"""Start and stop studies as jobs of the cluster. No study runs in this process, so a restart affects none."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from proxytune.tuning.cluster.jobs import Jobs
from proxytune.tuning.confirm.retraining import SUFFIX
from proxytune.tuning.errors import HeldError, InputError, ProxytuneError
from proxytune.tuning.service.problems import ClusterError, NoCluster
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.steering import announce_start, is_stopping
from proxytune.tuning.store.study import Study

T = TypeVar("T")
ALIVE = ("PENDING", "RUNNING")


class Runs:
    """The jobs of one server's cluster. Without an address no job can be started."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._jobs: Jobs | None = None

    def require(self) -> None:
        """Check that the cluster responds, before anything is written.

        Raises:
            NoCluster: the server has no cluster.
            ClusterError: the cluster does not respond.
        """
        self._cluster()

    def start(self, study: Study, spec: StudySpec, who: str) -> str:
        """Start or resume the study and return the id of its job, which may already be running.

        Raises:
            HeldError: a driver outside this cluster holds the study, or its driver is stopping.
            InputError: the study is a confirmation, or its budget of trials is met.
            NoCluster, ClusterError
        """
        if study.name.endswith(SUFFIX):
            raise InputError(
                f"study {study.name} is a confirmation; resume it with `proxytune confirm {study.name.removesuffix(SUFFIX)}`"
            )
        driver = study.driver()
        if driver is None and sum(END in trial.user_attrs for trial in study.trials()) >= study.budget:
            raise InputError(
                f"study {study.name} has met its budget of {study.budget} trials; extend it, then resume it"
            )
        if driver is not None and is_stopping(study):
            raise HeldError(f"study {study.name} is stopping; try again when {driver} has ended")
        if driver is not None and self._ask(lambda jobs: jobs.status(study.name)) not in ALIVE:
            raise HeldError(
                f"study {study.name} is held by {driver}, which is not a job of this server's cluster"
            )
        self._cluster()
        if driver is None:
            announce_start(study, who)
        return self._ask(lambda jobs: jobs.submit(spec))

    def confirm(self, study: Study, *, top: int, seeds: int, trials: Sequence[int]) -> str:
        """Confirm the study's winner and return the id of the job.

        Raises:
            HeldError: the search is still running.
            NoCluster, ClusterError
        """
        driver = study.driver()
        if driver is not None and self._ask(lambda jobs: jobs.status(f"{study.name}{SUFFIX}")) not in ALIVE:
            raise HeldError(f"study {study.name} is running in {driver}; confirm it when it has ended")
        return self._ask(lambda jobs: jobs.confirm(study.spec, top=top, seeds=seeds, trials=trials))

    def status(self, name: str) -> str | None:
        """Ray's status of the study's last job; None without a job, `unknown` if the cluster does not respond."""
        if self._address is None:
            return None
        try:
            return self._ask(lambda jobs: jobs.status(name))
        except ClusterError:
            return "unknown"

    def end(self, name: str) -> None:
        """Stop the study's job, if it is alive; the driver saves its trials and exits.

        Raises:
            ClusterError
        """
        if self._address is None:
            return
        if self._ask(lambda jobs: jobs.status(name)) in ALIVE:
            try:
                self._cluster().stop(name)
            except InputError:
                pass  # it has just ended
            except ProxytuneError as error:
                raise ClusterError(str(error)) from None

    def _ask(self, question: Callable[[Jobs], T]) -> T:
        jobs = self._cluster()
        try:
            return question(jobs)
        except ProxytuneError as error:
            raise ClusterError(str(error)) from None

    def _cluster(self) -> Jobs:
        if self._address is None:
            raise NoCluster(
                "this server has no cluster, so it cannot start studies; start it with "
                "--address http://HEAD:8265, or run the study with `proxytune run`"
            )
        with self._lock:  # connecting hides environment variables temporarily
            if self._jobs is None:
                try:
                    self._jobs = Jobs(self._address)
                except ProxytuneError as error:
                    raise ClusterError(str(error)) from None
            return self._jobs
