"""Tasks of a folder in the format of LCBench: a surrogate of training curves as ONNX, and its description as JSON.

The folder contains `surrogate.onnx` and `NAME.json` with "inputs" (the order of the columns), "tasks" (name: code),
"fidelity" (one key with low and high) and "space". Outputs: seconds until the epoch, val_accuracy in percent, others.
Source: LCBench (Zimmer, Lindauer, Hutter 2021) by YAHPO Gym's network (Pfisterer et al. 2022, arXiv 2109.03670).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxytune.tuning.errors import InputError
from proxytune.tuning.plan.workers import Ending
from proxytune.tuning.spec.space import Domain
from tests.benchmarks.race.tables import random_points

MODEL = "surrogate.onnx"
SECONDS, ACCURACY = 0, 1
NUM_REFERENCE = 2000


class Surrogate:
    """The network and its description."""

    def __init__(self, folder: Path) -> None:
        """Open a folder.

        Raises:
            InputError: a file is missing or unreadable, or onnxruntime is not installed.
        """
        descriptions = sorted(folder.glob("*.json"))
        if not (folder / MODEL).is_file():
            raise InputError(f"{folder}: {MODEL} is missing")
        if len(descriptions) != 1:
            raise InputError(
                f"{folder}: {len(descriptions)} JSON files, expected one that describes the table"
            )
        try:
            import onnxruntime
        except ImportError:
            raise InputError("onnxruntime is not installed; pip install 'proxytune[onnx]'") from None
        try:
            about = json.loads(descriptions[0].read_text(encoding="utf-8"))
            self.tasks: dict[str, int] = about["tasks"]
            ((self.fidelity, limits),) = about["fidelity"].items()
            self.steps = tuple(range(int(limits["low"]), int(limits["high"]) + 1))
            self.integers = frozenset(key for key, domain in about["space"].items() if domain.get("int"))
            self.domains = {
                key: Domain(**{name: value for name, value in domain.items() if name != "int"})
                for key, domain in about["space"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{descriptions[0]}: not the description of a table: {error!r}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / MODEL), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of several private classes
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise InputError(f"{folder / MODEL}: not a model that onnxruntime can load: {first}") from None

    def predict(self, code: int, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Seconds and accuracy (0 to 1) of rows (epoch, configuration)."""
        inputs = {"x_cat": np.full((len(rows), 1), code, np.int32), "x_cont": rows.astype(np.float32)}
        found = self._session.run(None, inputs)[0][:, [SECONDS, ACCURACY]].astype(np.float64)
        return found * [1.0, 0.01]  # type: ignore[no-any-return]


class SurrogateCurve:
    """The curve of one configuration, predicted in growing segments."""

    complete = True

    def __init__(self, task: "SurrogateTask", point: Sequence[float]) -> None:
        self._task = task
        self._point = point
        self._seconds: list[float] = []
        self._values: list[float] = []

    def value(self, report: int) -> float:
        self._predict_until(report)
        return self._values[report]

    def seconds(self, report: int) -> float:
        self._predict_until(report)
        return self._seconds[report]

    def ending(self, report: int) -> Ending:
        return "complete" if report == len(self._task.steps) - 1 else "running"

    def _predict_until(self, report: int) -> None:
        while len(self._values) <= report:
            known = len(self._values)
            until = min(max(3 * known, known + 1), len(self._task.steps))
            found = self._task.predict([(step, *self._point) for step in self._task.steps[known:until]])
            # The network's time is not always monotone in the epoch.
            floor = [self._seconds[-1] if self._seconds else 0.0]
            self._seconds += np.maximum.accumulate([*floor, *found[:, 0]])[1:].tolist()
            self._values += found[:, 1].tolist()


class SurrogateTask:
    """One task of the folder."""

    rungs = (1, 3)

    def __init__(self, surrogate: Surrogate, name: str) -> None:
        """Choose a task.

        Raises:
            InputError: the table has no such task, or the network returns NaN for it.
        """
        if name not in surrogate.tasks:
            raise InputError(f"no task {name} in the table; available: {', '.join(surrogate.tasks)}")
        self.name = name
        self.domains, self.integers, self.steps = surrogate.domains, surrogate.integers, surrogate.steps
        self._surrogate = surrogate
        points = random_points(self.domains, self.integers, NUM_REFERENCE, seed=0)
        rows = np.stack([np.full(NUM_REFERENCE, float(self.steps[-1])), *points.values()], axis=1)
        found = self.predict(rows)
        self.training_seconds = float(found[:, 0].mean())
        self.worst = float(np.median(found[:, 1]))
        self.best = self._climb(rows[np.argsort(-found[:, 1])[:20]])

    def predict(self, rows: Any) -> NDArray[np.float64]:
        """Seconds and accuracy of rows (epoch, configuration).

        Raises:
            InputError: the network returns NaN.
        """
        found = self._surrogate.predict(self._surrogate.tasks[self.name], np.asarray(rows, dtype=np.float64))
        if not np.isfinite(found).all():
            raise InputError(f"task {self.name}: the surrogate returns NaN for it")
        return found

    def curve(self, params: Mapping[str, Any]) -> SurrogateCurve:
        return SurrogateCurve(self, [float(params[key]) for key in self.domains])

    def _climb(self, rows: NDArray[np.float64]) -> float:
        """The best value that a random local search finds from the given configurations."""
        generator = np.random.default_rng(0)
        logs = np.array([False, *(domain.log for domain in self.domains.values())])
        low, high = (
            np.array([getattr(domain, end) for domain in self.domains.values()]) for end in ("low", "high")
        )
        width = np.where(
            logs[1:], np.log(np.where(logs[1:], high / np.where(low == 0, 1, low), 1)), high - low
        )
        best = float(self.predict(rows)[:, 1].max())
        for scale in np.geomspace(0.3, 0.003, 40):
            moved = np.repeat(rows, 10, axis=0)
            shift = generator.normal(size=(len(moved), len(low))) * width * scale
            shift *= generator.uniform(size=shift.shape) < 0.5
            moved[:, 1:] = np.where(logs[1:], moved[:, 1:] * np.exp(shift), moved[:, 1:] + shift).clip(
                low, high
            )
            for index, key in enumerate(self.domains):
                if key in self.integers:
                    moved[:, index + 1] = np.round(moved[:, index + 1])
            both = np.concatenate([rows, moved])
            values = self.predict(both)[:, 1]
            rows = both[np.argsort(-values)[: len(rows)]]
            best = max(best, float(values.max()))
        return best


def surrogate_tasks(folder: Path, names: Sequence[str] = ()) -> list[SurrogateTask]:
    """The named tasks of a folder; default: all tasks.

    Raises:
        InputError: the folder or a task is missing or invalid.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    surrogate = Surrogate(folder)
    return [SurrogateTask(surrogate, name) for name in names or surrogate.tasks]
