"""The time per trial without work, compared with stock Ray Tune, OptunaSearch and MLflowLoggerCallback in one run."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import cloudpickle

from proxytune.tuning.cluster.session import ray_session
from proxytune.tuning.cluster.trainable import TrialTrainable
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.spec.locations import default_uri
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.spec.trial_spec import TrialSpec
from proxytune.tuning.store.checkpoints import Checkpoints
from proxytune.tuning.trial.trial_run import TrialRun
from proxytune.tuning.trial.update import TrialUpdate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORTS = 3


class NoWork(TrialRun):
    """A trial without training, which reports a value that depends only on the parameters."""

    def __init__(self, spec: TrialSpec, checkpoints: Checkpoints | None) -> None:
        self._steps = int(spec.training["steps"])
        self._value = 1.0 - abs(float(spec.model["dropout"]) - 0.2)
        self._step = 0

    @property
    def step(self) -> int:
        return self._step

    def advance(self) -> TrialUpdate:
        self._step += self._steps // REPORTS
        metrics = {"val_accuracy": self._value * self._step / self._steps, "val_loss": 1.0 - self._value}
        outcome = "complete" if self._step >= self._steps else "running"
        return TrialUpdate(step=self._step, metrics=metrics, outcome=outcome)

    def save(self) -> None:
        pass


class NoWorkTrainable(TrialTrainable):
    """The Ray trainable of a `NoWork` run."""

    def _make_run(self) -> TrialRun:
        return NoWork(self._spec, self._checkpoints)


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import the tests


def no_work_study(storage: Path, num_trials: int) -> StudySpec:
    """A study of trials without work, with three reports each and without a stopping rule."""
    return parse_study(
        {
            "name": "turnaround",
            "task": {"name": "listops-mini"},
            "training": {
                "steps": 3 * REPORTS,
                "warmup_steps": 0,
                "batch_size": 1,
                "learning_rate": 1e-3,
                "eval_every": REPORTS,
            },
            "search": {
                "space": {
                    "model.num_proxies": {"choice": [16, 32, 64, 128]},
                    "model.contrastive_temperature": {"low": 0.02, "high": 1.0, "log": True},
                    "model.dropout": {"low": 0.0, "high": 0.4},
                },
                "stopping": {"name": "none"},
                "trials": num_trials,
            },
            "storage": str(storage),
        },
        where="turnaround",
    )


def run(num_trials: int, num_stock_trials: int) -> dict[str, float]:
    """Seconds per trial of both and their ratio, including all tracking but not Ray's start.

    The stock search has fewer trials, since each takes more than a second. The start of its first actor is included.
    """
    with tempfile.TemporaryDirectory() as folder:
        ours = _ours(Path(folder) / "ours", num_trials)
        stock = _stock(Path(folder) / "stock", num_stock_trials)
    return {
        "trials": num_trials,
        "stock_trials": num_stock_trials,
        "seconds_per_trial": ours,
        "stock_seconds_per_trial": stock,
        "ratio": stock / ours,
    }


def headline(result: dict[str, float]) -> dict[str, str]:
    """The rows for the table of all benchmarks."""
    ours, stock = result["seconds_per_trial"], result["stock_seconds_per_trial"]
    return {
        "a trial without work, 3 reports, tracked": f"{ours:.3f} s; stock Ray Tune + OptunaSearch + "
        f"MLflowLoggerCallback {stock:.2f} s ({result['ratio']:.1f} times)"
    }


def figure(result: dict[str, float]) -> "Figure":
    """Seconds per trial of both."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 3), layout="constrained")
    axes = drawing.subplots()
    bars = axes.barh(
        ["stock Ray Tune", "proxytune"], [result["stock_seconds_per_trial"], result["seconds_per_trial"]]
    )
    axes.bar_label(bars, fmt=" {:.3f}")
    axes.margins(x=0.15)
    axes.set_xlabel("seconds per trial without work, 3 reports, tracked in MLflow")
    axes.set_title(f"stock / proxytune: {result['ratio']:.1f}")
    return drawing


@contextmanager
def _timed_search(seconds: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - started)


def _ours(storage: Path, num_trials: int) -> float:
    """Seconds per trial of our search, including shipping its last events to MLflow."""
    seconds: list[float] = []
    ended: list[float] = []

    @contextmanager
    def watch(*_: Any) -> Iterator[None]:
        with _timed_search(seconds):
            yield
        ended.append(time.perf_counter())

    study = run_study(no_work_study(storage, num_trials), trainable=NoWorkTrainable, watch=watch)
    assert len(study.trials()) == num_trials
    shipping = time.perf_counter() - ended[0]  # includes Ray's shutdown, to our disadvantage
    return (seconds[0] + shipping) / num_trials


def _stock(storage: Path, num_trials: int) -> float:
    """Seconds per trial of the stock search."""
    with ray_session() as session:
        import mlflow
        from ray import tune
        from ray.air.integrations.mlflow import MLflowLoggerCallback
        from ray.tune.search.optuna import OptunaSearch

        os.environ.pop("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", None)
        storage.mkdir(parents=True)
        mlflow.set_tracking_uri(default_uri(storage))

        def objective(config: dict[str, Any]) -> None:
            for report in range(1, REPORTS + 1):
                tune.report({"val_accuracy": (1.0 - abs(config["dropout"] - 0.2)) * report / REPORTS})

        tuner = tune.Tuner(
            objective,
            param_space={
                "num_proxies": tune.choice([16, 32, 64, 128]),
                "contrastive_temperature": tune.loguniform(0.02, 1.0),
                "dropout": tune.uniform(0.0, 0.4),
            },
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(metric="val_accuracy", mode="max"),
                metric="val_accuracy",
                mode="max",
                num_samples=num_trials,
            ),
            run_config=tune.RunConfig(
                storage_path=str(session.scratch / "stock"),
                callbacks=[MLflowLoggerCallback(tracking_uri=default_uri(storage), experiment_name="stock")],
                verbose=0,
            ),
        )
        started = time.perf_counter()
        results = tuner.fit()
        assert len(results) == num_trials
        return (time.perf_counter() - started) / num_trials
