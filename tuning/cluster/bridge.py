"""Ray's side of the search: a Searcher and a scheduler that pass everything on to the controller.

An exception here would abort the whole experiment (and leave its trials as they are), so none leaves: the first one
is kept, the search stops, and the driver raises it after Ray has ended.
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
"""How many trials Tune may know, ended ones included; it runs more if the cluster has more slots."""


class RayBridge:
    """What the searcher and the scheduler share: the controller, who is who, and the first error.

    They are called from the thread that runs Ray's loop. Once `close` has returned, that loop may go on (it may hang
    in a Ray that has died), and the controller belongs to the caller alone.
    """

    def __init__(self, controller: StudyController, slots: Callable[[], int]) -> None:
        self.controller = controller
        self.slots = slots
        self.numbers: dict[str, int] = {}  # Ray's trial ids to Optuna's numbers
        self.given_up: dict[str, int] = {}  # Ray's trial ids, whose worker may be lost so many times more
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
    """The trainable on so many cores and the share of a GPU that its configuration names."""
    return tune.with_resources(
        trainable, lambda config: tune.PlacementGroupFactory([{"CPU": cpu, "GPU": config["gpu"]}])
    )


class StudySearcher(Searcher):
    """Hands out the controller's trials, one for each free slot."""

    def __init__(self, bridge: RayBridge) -> None:
        super().__init__()
        self._bridge = bridge

    def save(self, checkpoint_path: str) -> None:
        """Ray's own state is never read again: the controller's storage holds the truth."""

    def suggest(self, trial_id: str) -> Any:
        try:
            slots = self._bridge.slots()  # asks Ray, which may hang: not under the lock
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
                    # Ray gives a trial up at once if the worker that it was to reuse is dead, whatever max_failures is.
                    if bridge.handed_back[number] < chances:
                        bridge.handed_back[number] += 1
                        bridge.controller.hand_back(number, "its worker was lost before it could begin")
                    else:
                        bridge.controller.lost(
                            number, "its worker was lost more often than resources.max_failures"
                        )
                except Exception as failure:
                    bridge.fail(failure)


class StudyScheduler(FIFOScheduler):
    """Stops a trial when the controller says so, and lets the controller hear other terminals in every round of Ray's loop.

    While nothing may be started (a pause, a share of the cluster that is used up), no worker keeps a slot for it.
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
    """In place of Tune's own progress callback, which keeps every trial that it has heard of."""

    def log_result(self, trial: Trial, result: dict[str, Any], error: bool = False) -> None:
        pass

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        pass
