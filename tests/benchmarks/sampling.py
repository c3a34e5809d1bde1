"""Search quality without training: the real searches over recorded curves, in the time that the trainings took.

Each method proposes a point of the space; it is given the recorded curve of the nearest configuration (the same
choices, nearest in the ranges scaled to [0, 1], logarithmic where the space is) and the CPU seconds of each report.
Ours is the real controller, storage, samplers and rungs; stock is Ray's own OptunaSearch and ASHAScheduler with the same
rungs. Only Ray's processes are left out: an event queue plays the workers. For one seed every method begins with the
same NUM_COMMON random configurations, as many as Optuna's TPE draws at random, so that luck at the start is shared.

Regret: the best full-budget value in the table less that of the configuration in hand, by two rules for every method.
"trained": the best one that has been trained to the full budget, which can be exported as it is. "leader": the one with
the best last value, however early, as Ray's `get_best_result` answers; what it would reach at the full budget counts,
although that training is still to be paid for.
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
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.study_files import read_study
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.trial.trial_run import TrialUpdate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STUDY = "listops-mini"
STOCK = "stock OptunaSearch + ASHA"
OURS = "asha + tpe"
BUDGETS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # of each worker, in full trainings
NUM_COMMON = 10
RULES = ("trained", "leader")
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


class Ours:
    """The controller as a driver runs it, on a sqlite file of its own."""

    def __init__(
        self, folder: Path, seed: int, sampler: str, stopping: str, start: Sequence[Mapping[str, Any]]
    ) -> None:
        self._spec = read_study(
            STUDY,
            [
                f"storage={json.dumps(str(folder))}",
                "search.trials=1000000",
                f"search.enqueue={json.dumps(start)}",
                f"search.sampler={{name: {sampler}, seed: {seed}}}",
                f"search.stopping.name={stopping}",
            ],
        )
        self._outbox = Outbox(self._spec.folder / "outbox")
        self.study = begin_study(self._spec)
        self._controller = StudyController(self._spec, self.study.optuna, self.study.storage, self._outbox)
        self._controller.reconcile()

    def ask(self) -> tuple[int, Mapping[str, Any]]:
        assignment = self._controller.next_trial()
        assert assignment is not None
        return assignment.number, self._controller.live[assignment.number].params

    def tell(self, trial: int, curve: Curve, report: int) -> bool:
        last = report == len(curve.steps) - 1
        ending = "complete" if curve.complete else "diverged"
        metrics = {"val_accuracy": curve.values[report], "val_loss": curve.losses[report]}
        update = TrialUpdate(step=curve.steps[report], metrics=metrics, outcome=ending if last else "running")
        return self._controller.receive(trial, update, {})

    def close(self) -> None:
        self._outbox.close()
        self.study.storage.engine.dispose()


class Stock:
    """Ray's OptunaSearch and ASHAScheduler, called in the order in which Tune's controller does."""

    def __init__(self, seed: int, spec: StudySpec, start: Sequence[Mapping[str, Any]]) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        objective = next(iter(spec.search.objectives))
        rungs = spec.rung_steps()
        self._search = OptunaSearch(
            {key: spec.space.distributions[key] for key in spec.space.order},
            metric=objective,
            mode="max",
            seed=seed,
            points_to_evaluate=[dict(params) for params in start],
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
        over = report == len(curve.steps) - 1
        if not over:
            over = self._scheduler.on_trial_result(None, trial, result) == self._scheduler.STOP
            self._search.on_trial_result(trial.trial_id, result)
        if over:
            self._scheduler.on_trial_complete(None, trial, result)
            self._search.on_trial_complete(trial.trial_id, result)
        return over


def common_start(spec: StudySpec, seed: int) -> list[dict[str, Any]]:
    """The random configurations with which every method begins."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [spec.space.suggest(study.ask(), {}) for _ in range(NUM_COMMON)]


@contextmanager
def make_method(name: str, seed: int, spec: StudySpec) -> Iterator[Method]:
    """A fresh search of one of METHODS."""
    start = common_start(spec, seed)
    if name == STOCK:
        yield Stock(seed, spec, start)
        return
    with tempfile.TemporaryDirectory(prefix="sampling-") as folder:
        sampler, stopping = {"random": ("random", "none"), "tpe": ("tpe", "none"), OURS: ("tpe", "asha")}[
            name
        ]
        ours = Ours(Path(folder), seed, sampler, stopping, start)
        try:
            yield ours
        finally:
            ours.close()


def race(
    method: Method, curves: Curves, num_workers: int, budgets: Sequence[float]
) -> dict[str, list[float]]:
    """The regret by each of RULES at each budget, in seconds of the simulated clock; lowest budget first.

    Until there is anything in hand, its regret is that of the worst configuration.
    """
    order = iter(range(10**9))
    queue: list[tuple[float, int, Any, Curve, int]] = []

    def begin(now: float) -> None:
        trial, params = method.ask()
        curve = curves.nearest(params)
        heapq.heappush(queue, (now + curve.seconds[0], next(order), trial, curve, 0))

    for _ in range(num_workers):
        begin(0.0)
    last: dict[int, tuple[float, float]] = {}  # by trial: its last value, and that of the full budget
    trained = curves.worst
    regrets: dict[str, list[float]] = {rule: [] for rule in RULES}
    for budget in budgets:
        while queue[0][0] <= budget:
            now, number, trial, curve, report = heapq.heappop(queue)
            final = curve.values[-1] if curve.complete else curves.worst
            last[number] = (curve.values[report], final)
            if report == len(curve.steps) - 1:
                trained = max(trained, final)
            if method.tell(trial, curve, report):
                begin(now)
            else:
                seconds = curve.seconds[report + 1] - curve.seconds[report]
                heapq.heappush(queue, (now + seconds, number, trial, curve, report + 1))
        _, leader = max(last.values(), default=(0.0, curves.worst))
        regrets["trained"].append(curves.best - trained)
        regrets["leader"].append(curves.best - leader)
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
    regrets: dict[str, dict[str, list[list[float]]]] = {
        rule: {name: [] for name in METHODS} for rule in RULES
    }
    for seed in range(num_seeds):
        for name in METHODS:
            with make_method(name, seed, spec) as method:
                for rule, row in race(method, curves, num_workers, seconds).items():
                    regrets[rule][name].append(row)
        last = ", ".join(f"{name} {regrets['trained'][name][-1][-1]:.4f}" for name in METHODS)
        progress(f"seed {seed + 1} of {num_seeds}: {last}")
    tables = {
        rule: {name: np.array(rows) for name, rows in methods.items()} for rule, methods in regrets.items()
    }
    return {
        "study": STUDY,
        "configurations": len(curves.curves),
        "training_cpu_seconds": curves.training_seconds,
        "best": curves.best,
        "worst": curves.worst,
        "seeds": num_seeds,
        "workers": num_workers,
        "budgets": list(budgets),
        "regret": {
            rule: {name: _with_intervals(rows) for name, rows in methods.items()}
            for rule, methods in tables.items()
        },
        f"regret less that of {STOCK}, seed by seed": {
            rule: {
                name: _with_intervals(rows - methods[STOCK])
                for name, rows in methods.items()
                if name != STOCK
            }
            for rule, methods in tables.items()
        },
        "regrets": regrets,
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


def headline(result: dict[str, Any]) -> dict[str, str]:
    """What a table of all benchmarks shows: regret at a middle budget."""
    middle = len(result["budgets"]) // 2
    regrets = {name: points[middle] for name, points in result["regret"]["trained"].items()}
    return {
        f"regret in val_accuracy after {result['budgets'][middle]:g} trainings a worker": "; ".join(
            f"{name} {regret['mean']:.4f} [{regret['low']:.4f}, {regret['high']:.4f}]"
            for name, regret in regrets.items()
        )
    }


def figure(result: Mapping[str, Any]) -> "Figure":
    """Regret against budget by each rule, and below it the difference to stock seed by seed."""
    from matplotlib.figure import Figure

    titles = {"trained": "best configuration trained to the end", "leader": "leader by its last value"}
    drawing = Figure(figsize=(13, 9), layout="constrained")
    for column, rule in zip(drawing.subplots(2, 2, sharex=True, sharey="row").T, RULES, strict=True):
        upper, lower = column
        for index, name in enumerate(METHODS):
            _band(upper, result["budgets"], result["regret"][rule][name], name, f"C{index}")
            if name in (differences := result[f"regret less that of {STOCK}, seed by seed"][rule]):
                _band(lower, result["budgets"], differences[name], name, f"C{index}")
        lower.axhline(0.0, color="C3", linewidth=1, label=STOCK)
        upper.set_title(f"{titles[rule]} ({result['seeds']} seeds, 95 % intervals)")
        lower.set_title("less that of stock, seed by seed (below 0: better)")
        lower.set_xlabel(f"budget of each of {result['workers']} workers, full trainings")
        for axes in column:
            axes.set_xscale("log", base=2)
            axes.set_xticks(result["budgets"], [f"{budget:g}" for budget in result["budgets"]])
            axes.minorticks_off()
            axes.set_ylabel("regret in val_accuracy")
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
    """Mean regret and interval of each method, a row a budget and rule; last, ours less stock's seed by seed."""
    rows = RichTable(
        "rule",
        "budget",
        *METHODS,
        f"{OURS} less stock",
        title=f"regret in val_accuracy: {result['configurations']} recorded trainings, {result['seeds']} seeds",
    )
    for rule in RULES:
        ours = result[f"regret less that of {STOCK}, seed by seed"][rule][OURS]
        for index, budget in enumerate(result["budgets"]):
            points = [*(result["regret"][rule][name][index] for name in METHODS), ours[index]]
            rows.add_row(
                rule, f"{budget:g}", *(f"{p['mean']:.4f} [{p['low']:.4f}, {p['high']:.4f}]" for p in points)
            )
    return rows
