"""Live progress of a study: bars and a table on a terminal, plain lines elsewhere."""

import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from optuna.trial import FrozenTrial
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from proxytune.tuning.errors import StorageError
from proxytune.tuning.plan.time_left import TimeLeft, duration
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.store.attributes import CANDIDATE, END, WITH_SEED
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import outcome_of, summary
from proxytune.tuning.tracking.shipper import Shipper

REFRESH_SECONDS = 1.0
PLAIN_SECONDS = 15.0
_MOST_ROWS = 12
"""Maximum number of running trials shown; a cluster may run more than a terminal has lines."""


@dataclass(frozen=True)
class _State:
    """The state of a study shown in the headline."""

    ended: int
    budget: int
    outcomes: str
    best: str
    activity: str  # stopping, paused, waiting for the first step, or running
    seconds_left: float | None
    share: float  # fraction of the expected steps that are done

    def text(self) -> str:
        left = "" if self.seconds_left is None else f"about {duration(self.seconds_left)} left"
        return " | ".join(filter(None, (*self.parts(), left)))

    def parts(self) -> tuple[str, ...]:
        """The parts whose change prints a new line; the remaining time is not one of them."""
        trials = f"{self.ended} of {self.budget} trials ended"
        return (trials, self.outcomes, self.best, self.activity, f"{self.share:.0%} of the steps")


class Watch:
    """Shows the progress of `run` during the search, in a thread that writes only `limits.seconds_left`."""

    def __init__(self, console: Console, study: Study, controller: StudyController, shipper: Shipper) -> None:
        self._console, self._study, self._controller, self._shipper = console, study, controller, shipper
        self._done = threading.Event()
        self._steps = int(study.spec.training["steps"])
        self._objectives = list(study.spec.search.objectives)
        self._time_left = TimeLeft(study.spec)
        self._printed = {trial.number for trial in study.trials() if trial.state.is_finished()}

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _show(self) -> None:
        with suppress(StorageError):  # the driver reports it
            (self._table if self._console.is_terminal else self._lines)()

    def _table(self) -> None:
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            over = False
            while not over:
                over = self._done.wait(REFRESH_SECONDS)
                self._print_ended(live.console)
                live.update(self.view(), refresh=True)

    def _lines(self) -> None:
        last, printed = float("-inf"), tuple[str, ...]()
        trouble: str | None = None
        over = False
        while not over:
            over = self._done.wait(REFRESH_SECONDS)
            if self._shipper.error != trouble:
                trouble = self._shipper.error
                self._console.print(trouble or "MLflow accepts events again", highlight=False, markup=False)
            self._print_ended(self._console)
            if time.monotonic() - last < PLAIN_SECONDS:
                continue
            state = self._state()
            if state.parts() != printed:
                last, printed = time.monotonic(), state.parts()
                self._console.print(state.text(), highlight=False, markup=False)

    def _print_ended(self, console: Console) -> None:
        """Print a line, above the table, for each trial that has ended since the last call."""
        for trial in self._study.trials():
            if trial.state.is_finished() and trial.number not in self._printed:
                self._printed.add(trial.number)
                value = ", ".join(f"{value:.4g}" for value in trial.values or ())
                line = f"{trial_name(trial)} {outcome_of(trial)} {value} {_params(trial.params)}"
                console.print(" ".join(line.split()), highlight=False, markup=False)

    def _state(self) -> _State:
        facts = summary(self._study)
        trials = self._study.trials()
        ended = [_steps_of(trial) for trial in trials if trial.state.is_finished()]
        live = [trial.step for trial in self._controller.live.copy().values()]
        waiting = [
            trial.last_step or 0
            for trial in trials
            if not trial.state.is_finished() and trial.number not in self._controller.live
        ]
        left = self._time_left.seconds(ended, live, facts["budget"], waiting)
        self._controller.limits.seconds_left = None if left is None else float(round(left, -1))
        done = sum(ended) + sum(live) + sum(waiting)
        remaining = self._time_left.remaining(ended, live + waiting, facts["budget"])
        best = "; ".join(
            f"best {', '.join(f'{name} {value:.4g}' for name, value in point['values'].items())}"
            f" ({trial_name(trials[point['trial']])})"
            for point in facts["best"][:1]
        )
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(facts["outcomes"].items()))
        activity = self._activity(started=left is not None or any(live))
        return _State(
            len(ended), facts["budget"], outcomes, best, activity, left, done / max(1, done + remaining)
        )

    def _activity(self, *, started: bool) -> str:
        steering = self._controller.steering
        if steering.stopping:
            return f"stopping ({steering.stopping})"
        if steering.paused_by:
            return f"paused by {steering.paused_by}; `proxytune resume {self._study.name}` resumes it"
        if steering.share is not None and steering.share.waits:
            return steering.share.waits
        return "" if started else "waiting for the first step"

    def view(self) -> Group:
        """The headline, a bar for the study, and a row with a bar for each running trial."""
        state = self._state()
        table = Table(box=None, pad_edge=False)
        for column in ("trial", "", "step", *self._objectives):
            table.add_column(column, justify="right")
        table.add_column("parameters", ratio=1, no_wrap=False, overflow="fold")
        running, stored = sorted(self._controller.live.copy().items()), self._study.trials()
        for number, trial in running[:_MOST_ROWS]:
            values = [
                f"{trial.metrics[name]:.4g}" if name in trial.metrics else "-" for name in self._objectives
            ]
            bar = ProgressBar(total=self._steps, completed=trial.step, width=12)
            table.add_row(
                trial_name(stored[number]).removeprefix("trial "),
                bar,
                f"{trial.step}/{self._steps}",
                *values,
                escape(_params(trial.params)),
            )
        bar_of_study = Table.grid()  # a bare ProgressBar does not end with a new line
        bar_of_study.add_row(ProgressBar(total=1.0, completed=state.share, width=60))
        lines: list[RenderableType] = [
            _wrapped(f"{self._study.name}: {state.text()}"),
            bar_of_study,
            table,
        ]
        if len(running) > _MOST_ROWS:
            lines.append(Text(f"and {len(running) - _MOST_ROWS} more"))
        if self._shipper.error:
            waiting = f"{self._shipper.error} ({self._shipper.waiting} events wait)"
            lines.append(_wrapped(waiting, "yellow"))
        lines += [_wrapped(note, "yellow") for note in self._controller.notes[-3:]]
        return Group(*lines)


def _wrapped(text: str, style: str = "") -> Text:
    """A text that always wraps, regardless of the console's settings."""
    return Text(text, style, no_wrap=False, overflow="fold")


def _steps_of(trial: FrozenTrial) -> int:
    end = trial.user_attrs.get(END)
    return int(end["step"]) if end else trial.last_step or 0


def trial_name(trial: FrozenTrial) -> str:
    """Display name of a trial; a retraining is named by its candidate and seed, which users know."""
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
