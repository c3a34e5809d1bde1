"""The outcomes of trials and the final states of drivers, with their Optuna states and MLflow statuses."""

from enum import StrEnum


class Outcome(StrEnum):
    """Outcome of a trial."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    COMPLETE = "complete"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    """Its predicted costs violate a constraint. It never ran and has no MLflow run."""
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    STOPPED = "stopped"
    """A user ended this trial."""

    @property
    def optuna_state(self) -> str:
        """Name of the trial's state in Optuna."""
        return _STATES[self][0]

    @property
    def mlflow_status(self) -> str:
        """Status of the trial's run in MLflow."""
        return _STATES[self][1]

    @property
    def is_final(self) -> bool:
        """Whether the trial never runs again."""
        return self.optuna_state in ("COMPLETE", "PRUNED", "FAIL")

    @property
    def is_error(self) -> bool:
        """Whether the trial ended with an error of its own."""
        return self.mlflow_status == "FAILED"


_STATES = {  # Optuna's trial state, MLflow's run status
    Outcome.QUEUED: ("WAITING", "SCHEDULED"),
    Outcome.RUNNING: ("RUNNING", "RUNNING"),
    Outcome.PAUSED: ("WAITING", "SCHEDULED"),
    Outcome.INTERRUPTED: ("WAITING", "SCHEDULED"),
    Outcome.COMPLETE: ("COMPLETE", "FINISHED"),
    Outcome.PRUNED: ("PRUNED", "FINISHED"),  # a result, not an error
    Outcome.INFEASIBLE: ("PRUNED", "FINISHED"),
    Outcome.DIVERGED: ("FAIL", "FAILED"),
    Outcome.OUT_OF_MEMORY: ("FAIL", "FAILED"),
    Outcome.FAILED: ("FAIL", "FAILED"),
    Outcome.STOPPED: ("FAIL", "KILLED"),
}


class StudyStatus(StrEnum):
    """State of a study, as its latest driver recorded it."""

    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"

    @property
    def mlflow_status(self) -> str:
        """Status of the study's run in MLflow."""
        return _STUDY_STATES[self]


_STUDY_STATES = {
    StudyStatus.RUNNING: "RUNNING",
    StudyStatus.PAUSED: "SCHEDULED",
    StudyStatus.FINISHED: "FINISHED",
    StudyStatus.INTERRUPTED: "KILLED",
    StudyStatus.FAILED: "FAILED",
}
