"""Overhead of the search: an ask compared with Optuna's on the same history, and the driver's cost per trial.

Measured in CPU seconds of this process, which do not depend on the machine's load. Asks of the controller and of Optuna
alternate, each on its own copy of one sqlite file with the same finished trials and the same sampler. The controller
also builds the trial's complete configuration and writes the event for MLflow. Stock is Ray's OptunaSearch, which stores
its study in memory.
"""

import functools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.search.samplers import make_sampler
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.trial.update import TrialUpdate
from tests.benchmarks.turnaround import REPORTS, no_work_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS, OPTUNA, STOCK = "ours", "Optuna, the same storage", "stock OptunaSearch, in memory"
REPORTING = "reports and end"


def run(
    num_trials: int = 1000, repeats: int = 40, progress: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Median CPU milliseconds over `repeats` asks after `num_trials` finished trials, and their ratios."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        spec = _study(Path(scratch) / "ours", num_trials + repeats)
        progress(f"filling a study with {num_trials} trials")
        study = begin_study(spec)
        history = _history(spec, num_trials)
        for trial in history:
            study.optuna.add_trial(trial)
        study.storage.engine.dispose()
        copy = Path(scratch) / "optuna.db"
        shutil.copy(spec.folder / "study.db", copy)
        samples = _asks(spec, copy, history, repeats, progress)
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "finished_trials": num_trials,
        "parameters": len(spec.search.space),
        "ask_milliseconds": medians,
        "ratio_to_optuna": medians[OURS] / medians[OPTUNA],
        "ratio_to_stock": medians[OURS] / medians[STOCK],
        "driver_milliseconds_per_trial": {
            "ask": medians[OURS],
            REPORTING: medians[REPORTING],
        },
        "samples": {name: [round(value, 3) for value in values] for name, values in samples.items()},
    }


def _study(storage: Path, num_trials: int) -> StudySpec:
    """`no_work_study` with seven hyperparameters."""
    values = json.loads(no_work_study(storage, num_trials).model_dump_json())
    values["search"]["space"] |= {
        "model.attention_dropout": {"low": 0.0, "high": 0.4},
        "model.num_layers": {"low": 1, "high": 4},
        "model.contrastive_weight": {"low": 1e-3, "high": 1.0, "log": True},
        "training.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    }
    return parse_study(values, where="overhead")


def _history(spec: StudySpec, num_trials: int) -> list[optuna.trial.FrozenTrial]:
    """Finished trials with random parameters, in the form in which the controller stores them."""
    asking = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), direction="maximize")
    trials = []
    steps = int(spec.training["steps"])
    for _ in range(num_trials):
        trial = asking.ask()
        params = spec.space.suggest(trial, {})
        value = 1.0 - abs(params["model.dropout"] - 0.2)
        metrics = {"val_accuracy": value, "val_loss": 1.0 - value}
        end = {"outcome": "complete", "reason": "", "step": steps, "metrics": metrics}
        trials.append(
            optuna.create_trial(
                params=params,
                distributions={key: spec.space.distributions[key] for key in params},
                value=value,
                intermediate_values={steps * (i + 1) // REPORTS: value for i in range(REPORTS)},
                user_attrs={END: end},
            )
        )
        asking.tell(trial, value)
    return trials


def _asks(
    spec: StudySpec,
    copy: Path,
    history: list[optuna.trial.FrozenTrial],
    repeats: int,
    progress: Callable[[str], None],
) -> dict[str, list[float]]:
    """CPU milliseconds of each ask of the three, and of the reports and the end of each of the controller's trials."""
    from ray.tune.search.optuna import OptunaSearch

    study = begin_study(spec)
    outbox = Outbox(spec.folder / "outbox")
    controller = StudyController(spec, study.optuna, study.storage, outbox)
    controller.reconcile()
    plain = optuna.load_study(study_name=spec.name, storage=open_storage(f"sqlite:///{copy}", create=False))
    space = {key: spec.space.distributions[key] for key in spec.space.order}
    stock = OptunaSearch(space, metric="val_accuracy", mode="max", seed=0)
    for trial in history:
        stock.add_evaluated_point(trial.params, trial.values[0])
    samples: dict[str, list[float]] = {name: [] for name in (OURS, OPTUNA, STOCK, REPORTING)}
    steps = int(spec.training["steps"])

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = call()
        samples[name].append((time.process_time() - began) * 1000)
        return result

    def ask_optuna(number: int) -> optuna.Trial:
        plain.sampler = make_sampler(spec, number)
        trial = plain.ask()
        spec.space.suggest(trial, {})
        return trial

    def report_trial(number: int, value: float) -> None:
        for report in range(1, REPORTS + 1):
            metrics = {"val_accuracy": value, "val_loss": 1.0 - value}
            outcome = "complete" if report == REPORTS else "running"
            controller.receive(
                number, TrialUpdate(step=steps * report // REPORTS, metrics=metrics, outcome=outcome), {}
            )

    for repeat in range(repeats):
        assignment = timed(OURS, controller.next_trial)
        assert assignment is not None
        value = 1.0 - abs(float(assignment.spec.model["dropout"]) - 0.2)
        timed(REPORTING, functools.partial(report_trial, assignment.number, value))
        trial = timed(OPTUNA, functools.partial(ask_optuna, assignment.number))
        for report in range(1, REPORTS + 1):
            trial.report(value, steps * report // REPORTS)
        plain.tell(trial, value)
        timed(STOCK, functools.partial(stock.suggest, str(repeat)))
        stock.on_trial_complete(str(repeat), {"val_accuracy": value})
        if repeat % 10 == 9:
            progress(f"{repeat + 1} of {repeats} asks")
    outbox.close()
    return samples


def headline(result: dict[str, Any]) -> dict[str, str]:
    """The rows for the table of all benchmarks."""
    asks = result["ask_milliseconds"]
    return {
        f"an ask after {result['finished_trials']:,} trials": f"{asks[OURS]:.1f} ms; Optuna alone {asks[OPTUNA]:.1f} ms "
        f"({result['ratio_to_optuna']:.2f} times); stock OptunaSearch, in memory, {asks[STOCK]:.1f} ms"
    }


def figure(result: dict[str, Any]) -> "Figure":
    """Cumulative distributions of the asks of the three."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 5), layout="constrained")
    axes = drawing.subplots()
    for name in (OURS, OPTUNA, STOCK):
        values = sorted(result["samples"][name])
        median = result["ask_milliseconds"][name]
        axes.plot(
            values, [(i + 1) / len(values) for i in range(len(values))], label=f"{name}: {median:.1f} ms"
        )
    axes.set_xlabel("CPU milliseconds per ask")
    axes.set_ylabel("share of asks")
    axes.set_xlim(left=0)
    axes.set_title(f"an ask after {result['finished_trials']} finished trials")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return drawing
