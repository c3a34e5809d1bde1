"""Ray's side of the search: a Searcher and a scheduler that delegate to the controller.

An exception here would abort the whole experiment and leave its trials in their current state. Exceptions are therefore
caught: the first is kept, the search stops, and the driver raises it after Ray has ended.
"""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from proxytune.tuning.cluster.ray_private import end_waiting_workers, forget_ended_trials
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.trial.update import TrialUpdate

KEPT_TRIALS = 100
"""Number of trials that Tune keeps, ended trials included; it runs more if the cluster has more slots."""


class RayBridge:
    """State shared by the searcher and the scheduler: the controller, the trial ids, and the first error.

    Both are called from the thread that runs Ray's loop. After `close` that loop may continue (it may hang if Ray has
    died), but it no longer uses the controller.
    """

    def __init__(self, controller: StudyController, slots: Callable[[], int]) -> None:
        self.controller = controller
        self.slots = slots
        self.numbers: dict[str, int] = {}  # Ray's trial ids to Optuna's numbers
        self.given_up: dict[str, int] = {}  # Ray's trial ids to the number of times they may be handed back
        self.handed_back: Counter[int] = Counter()
        self.error: Exception | None = None
        self.lock = threading.Lock()
        self.closed = False

    def close(self) -> None:
        with self.lock:
            self.closed = True

    def fail(self, error: Exception) -> None:
        self.error = self.error or error
        self.controller.stop(f"{type(error).__name__}: {error}")


def with_shares(trainable: type, cpu: float) -> Any:
    """The trainable with `cpu` cores and the share of a GPU given in its configuration."""
    return tune.with_resources(
        trainable, lambda config: tune.PlacementGroupFactory([{"CPU": cpu, "GPU": config["gpu"]}])
    )


class StudySearcher(Searcher):
    """Suggests the controller's trials, one per free slot."""

    def __init__(self, bridge: RayBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the study's storage is authoritative, and Ray's state is never read again."""

    def suggest(self, trial_id: str) -> Any:
        try:
            slots = self._bridge.slots()  # calls Ray, which may hang; the lock is not held
        except Exception as error:
            self._bridge.fail(error)
            return Searcher.FINISHED
        with self._bridge.lock:
            return Searcher.FINISHED if self._bridge.closed else self._suggest(trial_id, slots)

    def _suggest(self, trial_id: str, slots: int) -> Any:
        bridge = self._bridge
        try:
            if len(bridge.controller.live) >= slots:
                return None
            assignment = bridge.controller.next_trial()
        except Exception as error:
            bridge.fail(error)
            return Searcher.FINISHED
        if assignment is None:  # another terminal may extend the study while its last trials run
            return None if bridge.controller.live or not bridge.controller.finished else Searcher.FINISHED
        bridge.numbers[trial_id] = assignment.number
        return {
            "number": assignment.number,
            "checkpoints": assignment.checkpoints.to_json(),
            "spec": assignment.spec.model_dump_json(),
            "gpu": assignment.gpu,
            "efficiency": str(assignment.efficiency) if assignment.efficiency else None,
        }

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        bridge = self._bridge
        number = bridge.numbers.pop(trial_id, None)
        chances = bridge.given_up.pop(trial_id, 0)
        with bridge.lock:
            if error and number is not None and not bridge.closed:
                try:
                    # Ray fails a trial whose reused worker is dead at once, regardless of max_failures.
                    if bridge.handed_back[number] < chances:
                        bridge.handed_back[number] += 1
                        bridge.controller.hand_back(number, "its worker was lost before the trial started")
                    else:
                        bridge.controller.lost(
                            number, "its worker was lost more often than resources.max_failures"
                        )
                except Exception as failure:
                    bridge.fail(failure)


class StudyScheduler(FIFOScheduler):
    """Stops trials on the controller's decision, and polls requests from other terminals in every round of Ray's loop.

    While no trial may start (a pause, or the study's share of the cluster is used up), idle workers release their slots.
    """

    def __init__(self, bridge: RayBridge) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bridge = bridge

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        bridge = self._bridge
        controller = bridge.controller
        with bridge.lock:
            try:
                if not bridge.closed:
                    controller.poll()
            except Exception as error:
                bridge.fail(error)
        forget_ended_trials(tune_controller, KEPT_TRIALS)
        if not controller.steering.may_start(len(controller.live)):
            end_waiting_workers(tune_controller)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        where = {"node": result.get("node_ip", ""), "pid": result.get("pid", 0)}
        where |= {"device": result["device"]} if "device" in result else {}
        bridge = self._bridge
        with bridge.lock:
            try:
                update = TrialUpdate.from_json(result["update"])
                stop = bridge.closed or bridge.controller.receive(trial.config["number"], update, where)
            except Exception as error:
                bridge.fail(error)
                stop = True
        decision: str = TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
        return decision

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        bridge = self._bridge
        with bridge.lock:
            again = trial.trial_id in bridge.numbers and trial.num_failures <= trial.max_failures
            bridge.given_up[trial.trial_id] = trial.max_failures if again else 0
            if again and not bridge.closed:
                try:
                    bridge.controller.again(trial.config["number"])
                except Exception as error:
                    bridge.fail(error)


class Silence(TrialProgressCallback):
    """Replaces Tune's progress callback, which keeps every trial in memory."""

    def log_result(self, trial: Trial, result: dict[str, Any], error: bool = False) -> None:
        pass

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        pass
