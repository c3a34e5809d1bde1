"""One trial on Ray: an actor that is reused from trial to trial and reports a Turn at a time."""

from pathlib import Path
from typing import Any, ClassVar

from ray import tune

from proxytune.tuning.trial.trial_run import TrialRun, Turn
from proxytune.tuning.trial_spec import TrialSpec


class TrialTrainable(tune.Trainable):
    """Runs one TrialRun after the other.

    What a trial itself gets wrong (a diverged loss, memory, refused data, a bug) is a Turn with its outcome, which
    ends it. What the machine gets wrong (OSError, a killed process) is raised: Ray starts the trial again, up to
    max_failures, and it goes on from its newest checkpoint.
    """

    run_type: ClassVar[type[TrialRun]] = TrialRun

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        return {"turn": self._turn().to_json()}

    def cleanup(self) -> None:
        self._end()

    def _begin(self, config: dict[str, Any]) -> None:
        self._spec = TrialSpec.model_validate_json(config["spec"])
        self._folder = Path(config["folder"])
        self._run: TrialRun | None = None

    def _turn(self) -> Turn:
        try:
            if self._run is None:
                self._run = self.run_type(self._spec, self._folder)
            turn = self._run.turn()
        except OSError:
            raise
        except Exception as error:
            step = self._run.step if self._run else 0
            turn = Turn(step=step, outcome="failed", reason=f"{type(error).__name__}: {error}")
        if turn.outcome not in ("running", "complete"):
            self._run = None  # nothing of it is worth a checkpoint
        return turn

    def _end(self) -> None:
        """The trial is over or interrupted: keep what it has learnt since its last report."""
        if self._run is not None:
            self._run.save()
            self._run = None
