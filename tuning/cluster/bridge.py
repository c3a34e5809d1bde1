"""Ray's side of the search: a Searcher and a scheduler that pass everything on to the ledger.

An exception here would abort the whole experiment (and leave its trials as they are), so none leaves: the first one
is kept, the search stops, and the driver raises it after Ray has ended.
"""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from proxytune.tuning.search.controller import Ledger
from proxytune.tuning.trial.trial_run import Turn


class Adapter:
    """What the searcher and the scheduler share: the ledger, who is who, and the first error.

    They are called from the thread that runs Ray's loop. Once `close` has returned, that loop may go on (it may hang
    in a Ray that has died), and the ledger belongs to the caller alone.
    """

    def __init__(self, ledger: Ledger, slots: Callable[[], int]) -> None:
        self.ledger = ledger
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
        self.ledger.stop(f"{type(error).__name__}: {error}")


def with_shares(trainable: type, cpu: float) -> Any:
    """The trainable on so many cores and the share of a GPU that its configuration names."""
    return tune.with_resources(
        trainable, lambda config: tune.PlacementGroupFactory([{"CPU": cpu, "GPU": config["gpu"]}])
    )


class LedgerSearcher(Searcher):
    """Hands out the ledger's trials, one for each free slot."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self._adapter = adapter

    def save(self, checkpoint_path: str) -> None:
        """Ray's own state is never read again: the ledger's storage holds the truth."""

    def suggest(self, trial_id: str) -> Any:
        try:
            slots = self._adapter.slots()  # asks Ray, which may hang: not under the lock
        except Exception as error:
            self._adapter.fail(error)
            return Searcher.FINISHED
        with self._adapter.lock:
            return Searcher.FINISHED if self._adapter.closed else self._suggest(trial_id, slots)

    def _suggest(self, trial_id: str, slots: int) -> Any:
        adapter = self._adapter
        try:
            if len(adapter.ledger.live) >= slots:
                return None
            assignment = adapter.ledger.next_trial()
        except Exception as error:
            adapter.fail(error)
            return Searcher.FINISHED
        if assignment is None:  # another terminal may extend the study while its last trials run
            return None if adapter.ledger.live or not adapter.ledger.finished else Searcher.FINISHED
        adapter.numbers[trial_id] = assignment.number
        return {
            "number": assignment.number,
            "folder": str(assignment.folder),
            "spec": assignment.spec.model_dump_json(),
            "gpu": assignment.gpu,
            "fingerprint": adapter.ledger.fingerprint,
            "efficiency": str(assignment.efficiency) if assignment.efficiency else None,
        }

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        adapter = self._adapter
        number = adapter.numbers.pop(trial_id, None)
        chances = adapter.given_up.pop(trial_id, 0)
        with adapter.lock:
            if error and number is not None and not adapter.closed:
                try:
                    # Ray gives a trial up at once if the worker that it was to reuse is dead, whatever max_failures is.
                    if adapter.handed_back[number] < chances:
                        adapter.handed_back[number] += 1
                        adapter.ledger.hand_back(number, "its worker was lost before it could begin")
                    else:
                        adapter.ledger.lost(
                            number, "its worker was lost more often than resources.max_failures"
                        )
                except Exception as failure:
                    adapter.fail(failure)


class LedgerScheduler(FIFOScheduler):
    """Stops a trial when the ledger says so, and lets the ledger hear other terminals in every round of Ray's loop."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._adapter = adapter

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        adapter = self._adapter
        with adapter.lock:
            try:
                if not adapter.closed:
                    adapter.ledger.poll()
            except Exception as error:
                adapter.fail(error)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        where = {"node": result.get("node_ip", ""), "pid": result.get("pid", 0)}
        where |= {"device": result["device"]} if "device" in result else {}
        adapter = self._adapter
        with adapter.lock:
            try:
                turn = Turn.from_json(result["turn"])
                stop = adapter.closed or adapter.ledger.receive(trial.config["number"], turn, where)
            except Exception as error:
                adapter.fail(error)
                stop = True
        decision: str = TrialScheduler.STOP if stop else TrialScheduler.CONTINUE
        return decision

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        adapter = self._adapter
        with adapter.lock:
            again = trial.trial_id in adapter.numbers and trial.num_failures <= trial.max_failures
            adapter.given_up[trial.trial_id] = trial.max_failures if again else 0
            if again and not adapter.closed:
                try:
                    adapter.ledger.again(trial.config["number"])
                except Exception as error:
                    adapter.fail(error)
