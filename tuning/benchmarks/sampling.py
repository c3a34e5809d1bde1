"""Search quality without training: the real searches over recorded curves, in the time that the trainings took.

Each method proposes a point of the space; it is given the recorded curve of the nearest configuration (the same
choices, nearest in the ranges scaled to [0, 1], logarithmic where the space is) and the CPU seconds of each report.
Ours is the real ledger, storage, samplers and rungs; stock is Ray's own OptunaSearch and ASHAScheduler with the same
rungs. Only Ray's processes are left out: an event queue plays the workers.

Regret: the best full-budget value in the table less that of the configuration which the method would hand out. Ours
hands out the best trial of the full budget; stock, by `get_best_result`, that of the best last value, however early.
"""

import heapq
import json
import logging
import lzma
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from rich.table import Table as RichTable

from proxytune.tuning.errors import InputError
from proxytune.tuning.search.ledger import Ledger
from proxytune.tuning.spec import StudySpec, read_study
from proxytune.tuning.study import begin_study
from proxytune.tuning.tracking.outbox import Outbox
from proxytune.tuning.trial.trial_run import Turn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY = "listops-mini"
STOCK = "stock OptunaSearch + ASHA"
OURS = "asha + tpe"
BUDGETS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # of each worker, in full trainings
METHODS = ("random", "tpe", OURS, STOCK)


@dataclass(frozen=True)
class Curve:
    """One recorded training: its reports, and the CPU seconds it had taken by each."""

    params: Mapping[str, Any]
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    values: tuple[float, ...]  # val_accuracy
    losses: tuple[float, ...]
    complete: bool


class Curves:
    """The table of recorded trainings of one study's space."""

    def __init__(self, path: Path, spec: StudySpec) -> None:
        """Read a table that `curves.py` wrote, plain or as .xz.

        Raises:
            InputError: there is none, or it is of another space.
        """
        if not path.exists():
            raise InputError(f"{path}: no recorded curves there; record some with {__package__}.curves")
        opener: Callable[..., Any] = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            self.curves = [_curve(json.loads(line)) for line in file]
        if any(curve.params.keys() != spec.search.space.keys() for curve in self.curves):
            raise InputError(f"{path}: its curves are of another space than that of study {spec.name}")
        self._domains = spec.search.space
        self._points = np.array([self._point(curve.params) for curve in self.curves])
        finals = [curve.values[-1] for curve in self.curves if curve.complete]
        self.best, self.worst = max(finals), min(finals)
        self.training_seconds = float(np.mean([curve.seconds[-1] for curve in self.curves if curve.complete]))

    def nearest(self, params: Mapping[str, Any]) -> Curve:
        """The recorded configuration nearest to a point; one of other choices only where there is none of the same."""
        distances = np.abs(self._points - self._point(params))
        choices = [domain.choice is not None for domain in self._domains.values()]
        distances[:, choices] = 10.0 * (distances[:, choices] > 0)
        return self.curves[int(np.argmin((distances**2).sum(axis=1)))]

    def _point(self, params: Mapping[str, Any]) -> list[float]:
        point = []
        for key, domain in self._domains.items():
            if domain.choice is not None:
                point.append(float(domain.choice.index(params[key])))
                continue
            assert domain.low is not None
            assert domain.high is not None
            scale: Callable[[float], float] = math.log if domain.log else float
            low, high = scale(domain.low), scale(domain.high)
            point.append((scale(params[key]) - low) / (high - low))
        return point


def _curve(row: Mapping[str, Any]) -> Curve:
    reports = row["reports"]
    return Curve(
        params=row["params"],
        steps=tuple(report["step"] for report in reports),
        seconds=tuple(report["cpu_seconds"] for report in reports),
        values=tuple(report["val_accuracy"] for report in reports),
        losses=tuple(report["val_loss"] for report in reports),
        complete=row["outcome"] == "complete",
    )


class Method(Protocol):
    """A search over the table."""

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        """A new trial and its parameters."""

    def tell(self, trial: Any, curve: Curve, report: int) -> bool:
        """The next report of a trial; whether it is over."""

    @property
    def answer(self) -> Curve | None:
        """What would be handed out now."""


class Ours:
    """The ledger as a driver runs it, on a sqlite file of its own."""

    def __init__(self, folder: Path, seed: int, sampler: str, stopping: str) -> None:
        self._spec = read_study(
            STUDY,
            [
                f"storage={json.dumps(str(folder))}",
                "search.trials=1000000",
                "search.enqueue=[]",
                f"search.sampler={{name: {sampler}, seed: {seed}}}",
                f"search.stopping.name={stopping}",
            ],
        )
        self._outbox = Outbox(self._spec.folder / "outbox")
        self.study = begin_study(self._spec)
        self._ledger = Ledger(self._spec, self.study.optuna, self.study.storage, self._outbox)
        self._ledger.reconcile()
        self._best: tuple[float, Curve] | None = None

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        assignment = self._ledger.next_trial()
        assert assignment is not None
        return assignment.number, self._ledger.live[assignment.number].params

    def tell(self, trial: int, curve: Curve, report: int) -> bool:
        last = report == len(curve.steps) - 1
        ending = "complete" if curve.complete else "diverged"
        metrics = {"val_accuracy": curve.values[report], "val_loss": curve.losses[report]}
        turn = Turn(step=curve.steps[report], metrics=metrics, outcome=ending if last else "running")
        stop = self._ledger.receive(trial, turn, {})
        if turn.outcome == "complete" and (self._best is None or curve.values[-1] > self._best[0]):
            self._best = (curve.values[-1], curve)
        return stop

    @property
    def answer(self) -> Curve | None:
        return self._best[1] if self._best else None

    def close(self) -> None:
        self._outbox.close()
        self.study.storage.engine.dispose()


class Stock:
    """Ray's OptunaSearch and ASHAScheduler, called in the order in which Tune's controller does."""

    def __init__(self, seed: int, spec: StudySpec) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        objective = next(iter(spec.search.objectives))
        rungs = spec.rung_steps()
        self._search = OptunaSearch(
            {key: spec.space.distributions[key] for key in spec.space.order},
            metric=objective,
            mode="max",
            seed=seed,
        )
        self._scheduler: Any = ASHAScheduler(
            time_attr="step",
            metric=objective,
            mode="max",
            max_t=int(spec.training["steps"]),
            grace_period=rungs[0],
            reduction_factor=spec.search.stopping.reduction_factor,
        )
        self._number = 0
        self._last: dict[str, tuple[float, Curve]] = {}

    def ask(self) -> tuple[Any, Mapping[str, Any]]:
        self._number += 1
        trial = SimpleNamespace(trial_id=f"{self._number:08d}")
        params = self._search.suggest(trial.trial_id)
        assert params is not None
        self._scheduler.on_trial_add(None, trial)
        return trial, params

    def tell(self, trial: Any, curve: Curve, report: int) -> bool:
        value = curve.values[report]
        result = {"val_accuracy": value, "step": curve.steps[report], "training_iteration": report + 1}
        self._last[trial.trial_id] = (value, curve)
        over = report == len(curve.steps) - 1
        if not over:
            over = self._scheduler.on_trial_result(None, trial, result) == self._scheduler.STOP
            self._search.on_trial_result(trial.trial_id, result)
        if over:
            self._scheduler.on_trial_complete(None, trial, result)
            self._search.on_trial_complete(trial.trial_id, result)
        return over

    @property
    def answer(self) -> Curve | None:
        return max(self._last.values(), key=lambda last: last[0])[1] if self._last else None


@contextmanager
def make_method(name: str, seed: int, spec: StudySpec) -> Iterator[Method]:
    """A fresh search of one of METHODS."""
    if name == STOCK:
        yield Stock(seed, spec)
        return
    with tempfile.TemporaryDirectory(prefix="sampling-") as folder:
        sampler, stopping = {"random": ("random", "none"), "tpe": ("tpe", "none"), OURS: ("tpe", "asha")}[
            name
        ]
        ours = Ours(Path(folder), seed, sampler, stopping)
        try:
            yield ours
        finally:
            ours.close()


def race(method: Method, curves: Curves, num_workers: int, budgets: Sequence[float]) -> list[float]:
    """The regret at each budget, in seconds of the simulated clock; lowest budget first.

    Until a method has anything to hand out, its regret is that of the worst configuration.
    """
    order = iter(range(10**9))
    queue: list[tuple[float, int, Any, Curve, int]] = []

    def begin(now: float) -> None:
        trial, params = method.ask()
        curve = curves.nearest(params)
        heapq.heappush(queue, (now + curve.seconds[0], next(order), trial, curve, 0))

    for _ in range(num_workers):
        begin(0.0)
    regrets: list[float] = []
    while len(regrets) < len(budgets):
        while len(regrets) < len(budgets) and budgets[len(regrets)] < queue[0][0]:
            answer = method.answer
            regrets.append(curves.best - (answer.values[-1] if answer and answer.complete else curves.worst))
        now, _, trial, curve, report = heapq.heappop(queue)
        if method.tell(trial, curve, report):
            begin(now)
        else:
            seconds = curve.seconds[report + 1] - curve.seconds[report]
            heapq.heappush(queue, (now + seconds, next(order), trial, curve, report + 1))
    return regrets


def run(
    path: Path,
    num_seeds: int = 30,
    num_workers: int = 4,
    budgets: Sequence[float] = BUDGETS,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Regret of every method at every budget (in mean full trainings a worker), over seeds, with bootstrap intervals.

    Raises:
        InputError: no table of curves.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    spec = read_study(STUDY)
    curves = Curves(path, spec)
    seconds = [budget * curves.training_seconds for budget in budgets]
    regrets: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for seed in range(num_seeds):
        for name in METHODS:
            with make_method(name, seed, spec) as method:
                regrets[name].append(race(method, curves, num_workers, seconds))
        progress(
            f"seed {seed + 1} of {num_seeds}: " + ", ".join(f"{n} {regrets[n][-1][-1]:.4f}" for n in METHODS)
        )
    table = {name: np.array(rows) for name, rows in regrets.items()}
    return {
        "study": STUDY,
        "configurations": len(curves.curves),
        "training_cpu_seconds": curves.training_seconds,
        "best": curves.best,
        "worst": curves.worst,
        "seeds": num_seeds,
        "workers": num_workers,
        "budgets": list(budgets),
        "regret": {name: _with_intervals(rows) for name, rows in table.items()},
        f"regret less that of {STOCK}, seed by seed": {
            name: _with_intervals(rows - table[STOCK]) for name, rows in table.items() if name != STOCK
        },
        "regrets": {name: rows.round(5).tolist() for name, rows in table.items()},
    }


def _with_intervals(rows: NDArray[np.float64]) -> list[dict[str, float]]:
    """Mean over seeds and its 95 % bootstrap interval at each budget."""
    from scipy.stats import bootstrap

    found = []
    for column in rows.T:
        low = high = float(column.mean())
        if np.ptp(column) > 0:
            interval = bootstrap(
                (column,), np.mean, method="percentile", rng=np.random.default_rng(0)
            ).confidence_interval
            low, high = float(interval.low), float(interval.high)
        found.append({"mean": float(column.mean()), "low": low, "high": high})
    return found


def figure(result: Mapping[str, Any]) -> "Figure":
    """Regret against budget, and the difference to stock seed by seed."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(13, 5), layout="constrained")
    left, right = drawing.subplots(1, 2)
    for index, name in enumerate(METHODS):
        _band(left, result["budgets"], result["regret"][name], name, f"C{index}")
    differences = result[f"regret less that of {STOCK}, seed by seed"]
    for index, name in enumerate(METHODS):
        if name in differences:
            _band(right, result["budgets"], differences[name], name, f"C{index}")
    right.axhline(0.0, color="C3", linewidth=1)
    left.set_title(f"regret in val_accuracy, {result['seeds']} seeds, 95 % bootstrap intervals")
    right.set_title(f"the same less that of {STOCK} (below 0: better)")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(result["budgets"], [f"{budget:g}" for budget in result["budgets"]])
        axes.minorticks_off()
        axes.set_xlabel(f"budget of each of {result['workers']} workers, full trainings")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return drawing


def _band(
    axes: Any, budgets: Sequence[float], points: Sequence[Mapping[str, float]], name: str, color: str
) -> None:
    axes.plot(budgets, [point["mean"] for point in points], marker="o", markersize=4, label=name, color=color)
    low, high = [point["low"] for point in points], [point["high"] for point in points]
    axes.fill_between(budgets, low, high, alpha=0.15, color=color, linewidth=0)


def table(result: Mapping[str, Any]) -> RichTable:
    """Mean regret and interval of each method, a row a budget."""
    rows = RichTable(
        "budget",
        *METHODS,
        title=f"regret in val_accuracy: {result['configurations']} recorded trainings, {result['seeds']} seeds",
    )
    for index, budget in enumerate(result["budgets"]):
        points = [result["regret"][name][index] for name in METHODS]
        rows.add_row(f"{budget:g}", *(f"{p['mean']:.4f} [{p['low']:.4f}, {p['high']:.4f}]" for p in points))
    return rows
