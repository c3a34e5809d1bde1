"""Live progress: a table on a terminal, plain lines elsewhere."""

import threading
import time

from optuna.trial import FrozenTrial
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.store.attributes import CANDIDATE, WITH_SEED
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import outcome_of, summary
from proxytune.tuning.tracking.shipper import Shipper

REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 15.0


class Watch:
    """What `run` shows while the search goes on; a thread of its own, which only reads."""

    def __init__(self, console: Console, study: Study, controller: StudyController, shipper: Shipper) -> None:
        self._console, self._study, self._controller, self._shipper = console, study, controller, shipper
        self._done = threading.Event()
        self._began = time.monotonic()
        self._ended_before = self._num_ended()
        self._steps = int(study.spec.training["steps"])

    def __enter__(self) -> None:
        self._thread = threading.Thread(
            target=self._table if self._console.is_terminal else self._lines, name="progress", daemon=True
        )
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _num_ended(self) -> int:
        return sum(trial.state.is_finished() for trial in self._study.trials())

    def _table(self) -> None:
        with Live(console=self._console, auto_refresh=False) as live:
            while True:
                live.update(self._view(), refresh=True)
                if self._done.wait(REFRESH_SECONDS):
                    live.update(self._view(), refresh=True)
                    return

    def _lines(self) -> None:
        seen: set[int] = {trial.number for trial in self._study.trials() if trial.state.is_finished()}
        last = time.monotonic()
        trouble: str | None = None
        while True:
            over = self._done.wait(REFRESH_SECONDS)
            if self._shipper.error != trouble:
                trouble = self._shipper.error
                self._console.print(trouble or "MLflow takes events again", highlight=False, markup=False)
            for trial in self._study.trials():
                if trial.state.is_finished() and trial.number not in seen:
                    seen.add(trial.number)
                    value = ", ".join(f"{value:.4g}" for value in trial.values or ())
                    params = _params(trial.params)
                    self._console.print(
                        f"{_name(trial)} {outcome_of(trial)} {value} {params}", highlight=False
                    )
            if over:
                return
            if time.monotonic() - last > PLAIN_SECONDS:
                last = time.monotonic()
                self._console.print(self._headline(), highlight=False)

    def _headline(self) -> str:
        facts, trials = summary(self._study), self._study.trials()
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(facts["outcomes"].items()))
        ended = self._num_ended()
        best = "; ".join(
            f"best {', '.join(f'{name} {value:.4g}' for name, value in winner['values'].items())}"
            f" ({_name(trials[winner['trial']])})"
            for winner in facts["best"][:1]
        )
        elapsed = time.monotonic() - self._began
        rate = (ended - self._ended_before) / elapsed
        left = (
            f"about {_duration((self._study.budget - ended) / rate)} left" if rate > 0 else "estimating time"
        )
        paused_by, stopping = self._controller.paused_by, self._controller.stopping
        state = f"stopping ({stopping})" if stopping else f"paused by {paused_by}" if paused_by else left
        return " | ".join(filter(None, [f"{ended}/{self._study.budget} trials ended", outcomes, best, state]))

    def _view(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for column in ("trial", "step", *self._study.spec.search.objectives, "parameters"):
            table.add_column(column, justify="left" if column == "parameters" else "right")
        trials = self._study.trials()
        for number, live in sorted(self._controller.live.copy().items()):
            values = [
                f"{live.metrics.get(name, float('nan')):.4g}" for name in self._study.spec.search.objectives
            ]
            table.add_row(
                _name(trials[number]).removeprefix("trial "),
                f"{live.step}/{self._steps}",
                *values,
                _params(live.params),
            )
        lines: list[RenderableType] = [Text(f"{self._study.name}: {self._headline()}"), table]
        if self._shipper.error:
            lines.append(Text(f"{self._shipper.error} ({self._shipper.waiting} events wait)", "yellow"))
        lines += [Text(note, "yellow") for note in self._controller.notes[-3:]]
        return Group(*lines)


def _name(trial: FrozenTrial) -> str:
    """The trial; a retraining by the trial that it repeats and its seed, since its own number means nothing to a user."""
    attributes = trial.user_attrs
    if CANDIDATE in attributes:
        return f"trial {attributes[CANDIDATE]} with seed {attributes[WITH_SEED]}"
    return f"trial {trial.number}"


def _params(params: dict[str, object]) -> str:
    return " ".join(
        f"{key.rpartition('.')[2]}={value:.4g}"
        if isinstance(value, float)
        else f"{key.rpartition('.')[2]}={value}"
        for key, value in params.items()
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    )
