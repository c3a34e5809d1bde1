"""Drives a study without Ray: tests report the updates of its trials."""

from optuna.trial import TrialState

from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.search.running import Assignment
from proxytune.tuning.store.study import Study
from proxytune.tuning.trial.update import TrialUpdate


class Driver:
    """Opens a study as `run` does, without Ray."""

    def __init__(self, spec) -> None:
        self.study: Study = begin_study(spec)
        self.outbox = Outbox(spec.folder / "outbox")
        self.controller = StudyController(spec, self.study.optuna, self.study.storage, self.outbox)
        self.controller.reconcile()

    def crash(self) -> None:
        """As after kill -9: the study is unchanged and the journal is unlocked."""
        self.outbox.close()

    def begin(self) -> Assignment:
        assignment = self.controller.next_trial()
        assert assignment is not None
        return assignment

    def report(self, number: int, step: int, accuracy: float | None = None, **update) -> bool:
        metrics = None if accuracy is None else {"val_accuracy": accuracy, "val_loss": 1.0}
        return self.controller.receive(number, TrialUpdate(step=step, metrics=metrics, **update), {})

    def states(self) -> list[TrialState]:
        return [trial.state for trial in self.study.trials()]

    def events(self, kind: str) -> list[dict]:
        return [event for event in read_events(self.study.folder / "outbox").events if event.kind == kind]
