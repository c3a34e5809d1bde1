"""`proxytune bench`: the benchmarks."""

from dataclasses import asdict
from pathlib import Path

import click

from proxytune.tuning.commands.options import err, json_option, out, print_json
from proxytune.tuning.errors import InputError


@click.group()
def bench() -> None:
    """Measure, always against what a user would pick instead, as ratios within one run."""


@bench.command("turnaround")
@click.option(
    "--trials", "num_trials", default=200, show_default=True, help="Trials without work, 3 reports each."
)
@click.option("--stock-trials", default=50, show_default=True, help="The same with stock Ray Tune.")
@json_option
def bench_turnaround(num_trials: int, stock_trials: int, as_json: bool) -> None:
    """Seconds a trial without work, tracking on, against stock Ray Tune + OptunaSearch + MLflowLoggerCallback."""
    from proxytune.tuning.benchmarks import turnaround

    result = turnaround.run(num_trials, stock_trials)
    if as_json:
        print_json(result)
        return
    for name, value in result.items():
        out.print(f"{name}: {value:.4g}", highlight=False)


@bench.command("models")
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("build/bench"),
    show_default=True,
    help="Where models.csv and models.png are written.",
)
@click.option("--lengths", default="512,1024,2048,4096,8192", show_default=True, help="Tokens a sequence.")
@click.option(
    "--batch-size", default=32, show_default=True, help="Sequences a pass, for the predicted memory."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--quick", is_flag=True, help="One short timed step instead of the best of three.")
@json_option
def bench_models(
    folder: Path, lengths: str, batch_size: int, device: str, quick: bool, as_json: bool
) -> None:
    """Throughput, predicted memory and FLOPs of every attention mechanism, as ratios to explicit softmax."""
    from proxytune.models.errors import ConfigError
    from proxytune.tuning.benchmarks import models

    def progress(m: models.Measurement) -> None:
        err.print(f"n = {m.length}, {m.mechanism}: {m.sequences_per_second:.3g} sequences/s", highlight=False)

    try:
        tokens = [int(length) for length in lengths.split(",")]
        for length, mechanism in ((length, name) for length in tokens for name in models.MECHANISMS):
            models.model_config(mechanism, length)
    except ConfigError as error:
        raise InputError(f"--lengths is {lengths!r}: {error}") from None
    except ValueError:
        raise InputError(f"--lengths is {lengths!r}: give integers with commas between them") from None
    measurements = models.run(
        folder, tokens, batch_size=batch_size, quick=quick, device=device, progress=progress
    )
    if as_json:
        print_json([asdict(measurement) for measurement in measurements])
        return
    out.print(models.table(measurements))
    out.print(f"saved {folder / 'models.csv'} and {folder / 'models.png'}", highlight=False)


@bench.command("tracking")
@click.option("--uri", help="The MLflow store to fill; default: an sqlite file that is thrown away.")
@click.option("--runs", default="100,1000", show_default=True, help="Measure with so many runs in the store.")
@click.option(
    "--reports", "num_reports", default=4000, show_default=True, help="Reports to ship at each size."
)
@json_option
def bench_tracking(uri: str | None, runs: str, num_reports: int, as_json: bool) -> None:
    """Reports shipped to MLflow per second as the store grows, and what the driver feels of it."""
    import tempfile

    from proxytune.tuning.benchmarks import tracking
    from proxytune.tuning.tracking.shipper import check_uri

    try:
        sizes = sorted(int(size) for size in runs.split(","))
    except ValueError:
        raise InputError(f"--runs is {runs!r}: give integers with commas between them") from None
    with tempfile.TemporaryDirectory(prefix="tracking-") as folder:
        store = check_uri(uri) if uri else f"sqlite:///{folder}/mlflow.db"
        shipped = list(
            tracking.ship_rates(store, sizes, num_reports, lambda text: err.print(text, highlight=False))
        )
    felt = list(tracking.driver_cost(200))
    share = tracking.cpu_share(60)
    if as_json:
        facts = {"shipped": [asdict(row) for row in shipped], "driver": [asdict(row) for row in felt]}
        print_json(facts | {"cpu_share_of_20_second_trials": share})
        return
    for row in shipped:
        out.print(
            f"{row.num_runs} runs in the store: {row.reports_per_second:.0f} reports/s and "
            f"{row.trials_per_second:.1f} whole trials/s shipped; one log_batch a report: "
            f"{row.one_by_one_per_second:.0f} reports/s",
            highlight=False,
        )
    for cost in felt:
        speed = cost.loops_per_second / felt[0].loops_per_second
        out.print(
            f"a driver's loop, {cost.name}: {speed:.0%} of its speed alone, for {cost.seconds:.1f} s",
            highlight=False,
        )
    out.print(f"two slots of 20-second trials, a report a second: {share:.1%} of one core", highlight=False)
