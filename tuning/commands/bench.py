"""`proxytune bench`: the benchmarks."""

import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxytune.tuning.commands.options import err, json_option, out, print_json
from proxytune.tuning.errors import InputError, StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = Path("tests/benchmarks/listops_mini_curves.jsonl.xz")


@click.group()
def bench() -> None:
    """Measure, always against what a user would pick instead, as ratios within one run.

    Each saves a JSON and a PNG with the date, the machine and the versions; `bench table` sums them up.
    """


def _measured(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all benchmarks share."""
    for option in (
        click.option(
            "--out",
            "folder",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path("build/bench"),
            show_default=True,
            help="Where the dated JSON and PNG are written.",
        ),
        click.option("--quick", is_flag=True, help="A small form that takes a minute, for CI."),
        json_option,
    ):
        command = option(command)
    return command


def _finish(
    folder: Path,
    as_json: bool,
    name: str,
    headline: dict[str, str],
    result: Any,
    figure: "Figure",
    shown: Any = None,
) -> None:
    """Save a result, and print its JSON, or `shown` (by default the headline) and where it was saved."""
    from proxytune.tuning.benchmarks.saved import save_result

    path = save_result(folder, name, headline, result, figure)
    if as_json:
        print_json(result)
        return
    if shown is not None:
        out.print(shown)
    else:
        for what, value in headline.items():
            out.print(f"{what}: {value}", highlight=False, markup=False)
    out.print(f"saved {path} and {path.with_suffix('.png').name}", highlight=False, markup=False)


_say = functools.partial(err.print, highlight=False, markup=False)


@bench.command("turnaround")
@click.option(
    "--trials", "num_trials", default=200, show_default=True, help="Trials without work, 3 reports each."
)
@click.option("--stock-trials", default=50, show_default=True, help="The same with stock Ray Tune.")
@_measured
def bench_turnaround(num_trials: int, stock_trials: int, folder: Path, quick: bool, as_json: bool) -> None:
    """Seconds a trial without work, tracking on, against stock Ray Tune + OptunaSearch + MLflowLoggerCallback.

    \b
    proxytune bench turnaround --quick
    """
    from proxytune.tuning.benchmarks import turnaround

    result = turnaround.run(*((20, 5) if quick else (num_trials, stock_trials)))
    _finish(folder, as_json, "turnaround", turnaround.headline(result), result, turnaround.figure(result))


@bench.command("overhead")
@click.option(
    "--trials", "num_trials", default=1000, show_default=True, help="Finished trials before the asks."
)
@_measured
def bench_overhead(num_trials: int, folder: Path, quick: bool, as_json: bool) -> None:
    """What an ask costs beside Optuna's own on the same history and sampler, and beside stock OptunaSearch.

    \b
    proxytune bench overhead
    """
    from proxytune.tuning.benchmarks import overhead

    result = overhead.run(*((100, 10) if quick else (num_trials, 40)), progress=_say)
    _finish(folder, as_json, "overhead", overhead.headline(result), result, overhead.figure(result))


@bench.command("scale")
@click.option("--trials", default="100,1000,10000", show_default=True, help="Sizes of the studies.")
@click.option("--without-ray", is_flag=True, help="The ledger alone: storage, journal and sampler.")
@_measured
def bench_scale(trials: str, without_ray: bool, folder: Path, quick: bool, as_json: bool) -> None:
    """Studies of many trials without work on real Ray: seconds, the driver's memory, the time to resume.

    \b
    proxytune bench scale --trials 100,1000
    """
    from proxytune.tuning.benchmarks import scale

    sizes = [60] if quick else _numbers("--trials", trials)
    result = scale.run(sizes, ray=not without_ray, progress=_say)
    _finish(folder, as_json, "scale", scale.headline(result), result, scale.figure(result))


@bench.command("sampling")
@click.option(
    "--curves",
    type=click.Path(path_type=Path, dir_okay=False),
    default=CURVES,
    show_default=True,
    help="Recorded trainings, as benchmarks/curves.py writes them.",
)
@click.option("--seeds", "num_seeds", default=30, show_default=True, type=click.IntRange(min=2))
@_measured
def bench_sampling(curves: Path, num_seeds: int, folder: Path, quick: bool, as_json: bool) -> None:
    """Regret against budget over recorded trainings: random, tpe, asha + tpe, stock OptunaSearch + ASHA.

    \b
    proxytune bench sampling --seeds 30
    """
    from proxytune.tuning.benchmarks import sampling

    seeds, budgets = (2, sampling.BUDGETS[:3]) if quick else (num_seeds, sampling.BUDGETS)
    result = sampling.run(curves, seeds, budgets=budgets, progress=_say)
    _finish(
        folder,
        as_json,
        "sampling",
        sampling.headline(result),
        result,
        sampling.figure(result),
        sampling.table(result),
    )


@bench.command("efficiency")
@_measured
def bench_efficiency(folder: Path, quick: bool, as_json: bool) -> None:
    """Run listops-mini and tell which share of its slot-seconds went into training.

    \b
    proxytune bench efficiency
    """
    from proxytune.tuning.benchmarks import efficiency

    small = [
        "search.trials=4",
        "training.steps=200",
        "training.warmup_steps=20",
        "training.eval_every=100",
        "search.stopping.min_steps=100",
        "task.train_examples=2000",
    ]
    result = efficiency.run(small if quick else [])
    _finish(folder, as_json, "efficiency", efficiency.headline(result), result, efficiency.figure(result))


@bench.command("data")
@_measured
def bench_data(folder: Path, quick: bool, as_json: bool) -> None:
    """Rows a second of generating and preparing each task that has a generator.

    \b
    proxytune bench data --quick
    """
    from proxytune.tuning.benchmarks import data

    result = data.run(quick, _say)
    _finish(folder, as_json, "data", data.headline(result), result, data.figure(result))


@bench.command("table")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def bench_table(folder: Path) -> None:
    """Print the newest results of FOLDER as a Markdown table.

    \b
    proxytune bench table build/bench
    """
    from proxytune.tuning.benchmarks.saved import markdown_table, newest_results

    results = newest_results(folder)
    if not results:
        raise InputError(f"{folder}: no results there; run a benchmark with --out {folder}")
    click.echo(markdown_table(results))


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"{option} is {text!r}: give integers with commas between them") from None


@bench.command("models")
@click.option("--lengths", default="512,1024,2048,4096,8192", show_default=True, help="Tokens a sequence.")
@click.option(
    "--batch-size", default=32, show_default=True, help="Sequences a pass, for the predicted memory."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@_measured
def bench_models(
    lengths: str, batch_size: int, device: str, folder: Path, quick: bool, as_json: bool
) -> None:
    """Throughput, predicted memory and FLOPs of every attention mechanism, as ratios to explicit softmax.

    \b
    proxytune bench models --quick --lengths 512,1024
    """
    from proxytune.models.errors import ConfigError
    from proxytune.tuning.benchmarks import models

    def progress(m: models.Measurement) -> None:
        _say(f"n = {m.length}, {m.mechanism}: {m.sequences_per_second:.3g} sequences/s")

    tokens = _numbers("--lengths", lengths)
    try:
        for length, mechanism in ((length, name) for length in tokens for name in models.MECHANISMS):
            models.model_config(mechanism, length)
    except ConfigError as error:
        raise InputError(f"--lengths is {lengths!r}: {error}") from None
    measurements = models.run(tokens, batch_size=batch_size, quick=quick, device=device, progress=progress)
    _finish(
        folder,
        as_json,
        "models",
        models.headline(measurements),
        [asdict(measurement) for measurement in measurements],
        models.figure(measurements),
        models.table(measurements),
    )


@bench.command("tracking")
@click.option("--uri", help="The MLflow store to fill; default: an sqlite file that is thrown away.")
@click.option(
    "--runs", default="100,1000,5000", show_default=True, help="Measure with so many runs in the store."
)
@click.option(
    "--reports", "num_reports", default=4000, show_default=True, help="Reports to ship at each size."
)
@_measured
def bench_tracking(
    uri: str | None, runs: str, num_reports: int, folder: Path, quick: bool, as_json: bool
) -> None:
    """Reports shipped to MLflow per second as the store grows, and what the search feels of it.

    \b
    proxytune bench tracking --quick
    proxytune bench tracking --uri postgresql+psycopg://me@localhost/mlflow
    """
    from proxytune.tuning.benchmarks import tracking
    from proxytune.tuning.tracking.shipper import check_uri

    uri = check_uri(uri) if uri else None
    sizes = [20, 60] if quick else sorted(_numbers("--runs", runs))
    try:
        result = tracking.run(uri, sizes, 400 if quick else num_reports, 20 if quick else 120, _say)
    except RuntimeError as error:
        raise StorageError(str(error)) from None
    name = f"tracking-{result['store'].partition('+')[0]}"
    _finish(folder, as_json, name, tracking.headline(result), result, tracking.figure(result))
