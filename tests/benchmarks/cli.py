"""Command line of the benchmarks: `python tests/benchmarks NAME`; `make bench` runs all of them."""

from pathlib import Path

import click

from proxytune.tuning.commands.bench import bench as models
from proxytune.tuning.commands.bench import finish, measured, numbers
from proxytune.tuning.commands.options import err
from proxytune.tuning.errors import InputError, StorageError
from tests.benchmarks.race.commands import race, warm_start


@click.group()
def bench() -> None:
    """Benchmarks of proxytune, most of them compared with the usual alternative in the same run.

    Each saves its result as JSON and PNG, with date, machine and versions. `table` summarizes the results.
    """


bench.add_command(models, "models")
bench.add_command(race)
bench.add_command(warm_start)


@bench.command("turnaround")
@click.option(
    "--trials",
    "num_trials",
    default=200,
    show_default=True,
    help="Number of trials without work, 3 reports each.",
)
@click.option("--stock-trials", default=50, show_default=True, help="Number of trials with stock Ray Tune.")
@measured
def bench_turnaround(num_trials: int, stock_trials: int, folder: Path, quick: bool, as_json: bool) -> None:
    """Seconds per tracked trial without work, compared with stock Ray Tune, OptunaSearch and MLflowLoggerCallback.

    \b
    python tests/benchmarks turnaround --quick
    """
    from tests.benchmarks import turnaround

    result = turnaround.run(*((20, 5) if quick else (num_trials, stock_trials)))
    finish(folder, as_json, "turnaround", turnaround.headline(result), result, turnaround.figure(result))


@bench.command("overhead")
@click.option(
    "--trials",
    "num_trials",
    default=1000,
    show_default=True,
    help="Number of finished trials in the history.",
)
@measured
def bench_overhead(num_trials: int, folder: Path, quick: bool, as_json: bool) -> None:
    """CPU time of an ask, compared with Optuna on the same history and sampler and with stock OptunaSearch.

    \b
    python tests/benchmarks overhead
    """
    from tests.benchmarks import overhead

    result = overhead.run(*((100, 10) if quick else (num_trials, 40)), progress=err.print)
    finish(folder, as_json, "overhead", overhead.headline(result), result, overhead.figure(result))


@bench.command("scale")
@click.option(
    "--trials", default="100,1000,10000", show_default=True, help="Numbers of trials of the studies."
)
@click.option(
    "--without-ray", is_flag=True, help="Measure only the controller: storage, journal and sampler."
)
@measured
def bench_scale(trials: str, without_ray: bool, folder: Path, quick: bool, as_json: bool) -> None:
    """Time per trial, driver memory and time to resume of studies with many trials without work, on real Ray.

    \b
    python tests/benchmarks scale --trials 100,1000
    """
    from tests.benchmarks import scale

    sizes = [60] if quick else numbers("--trials", trials)
    result = scale.run(sizes, ray=not without_ray, progress=err.print)
    finish(folder, as_json, "scale", scale.headline(result), result, scale.figure(result))


@bench.command("bank")
@click.argument("studies", nargs=-1, required=True)
@click.option(
    "--storage", type=click.Path(path_type=Path, file_okay=False), default=Path("studies"), show_default=True
)
def bench_bank(studies: tuple[str, ...], storage: Path) -> None:
    """Write finished studies into the curve bank (tuning/studies/bank/).

    \b
    python tests/benchmarks bank recall-curves --storage studies
    """
    from proxytune.tuning.journal.bank import write_banked
    from proxytune.tuning.store.study import open_study
    from proxytune.tuning.studies import BANK, BANKED

    for name in studies:
        study = open_study(name, storage)
        path = BANK / f"{name}{BANKED}"
        write_banked(study.folder / "outbox", path)
        err.print(f"written: {path}")


@bench.command("efficiency")
@measured
def bench_efficiency(folder: Path, quick: bool, as_json: bool) -> None:
    """Run listops-mini and report the share of its slot-seconds that is spent training.

    \b
    python tests/benchmarks efficiency
    """
    from tests.benchmarks import efficiency

    small = [
        "search.trials=4",
        "training.steps=200",
        "training.warmup_steps=20",
        "training.eval_every=100",
        "search.stopping.min_steps=100",
        "task.train_examples=2000",
    ]
    result = efficiency.run(small if quick else [])
    finish(folder, as_json, "efficiency", efficiency.headline(result), result, efficiency.figure(result))


@bench.command("plan")
@measured
def bench_plan(folder: Path, quick: bool, as_json: bool) -> None:
    """Predicted time of `proxytune plan` for three studies, compared with their measured time.

    \b
    python tests/benchmarks plan --quick
    """
    from tests.benchmarks import planning

    studies = list(planning.STUDIES.items())[: 1 if quick else None]
    result = planning.run(dict(studies), err.print)
    finish(folder, as_json, "plan", planning.headline(result), result, planning.figure(result))


@bench.command("data")
@measured
def bench_data(folder: Path, quick: bool, as_json: bool) -> None:
    """Rows per second of generating and preparing the data of each task with a generator.

    \b
    python tests/benchmarks data --quick
    """
    from tests.benchmarks import data

    result = data.run(quick, err.print)
    finish(folder, as_json, "data", data.headline(result), result, data.figure(result))


@bench.command("sharing")
@click.option(
    "--trials-per-slot", default=6, show_default=True, help="Trials per slot in each of the three studies."
)
@measured
def bench_sharing(trials_per_slot: int, folder: Path, quick: bool, as_json: bool) -> None:
    """Three studies that share a cluster, one with a higher priority, compared with one study of the same work.

    Takes an hour per layout, with --quick a few minutes.

    \b
    python tests/benchmarks sharing --quick
    """
    from tests.benchmarks import sharing

    layouts = list(sharing.LAYOUTS.items())[: 1 if quick else None]
    size = (2, sharing.QUICK_STEPS) if quick else (trials_per_slot, sharing.STEPS)
    result = sharing.run(dict(layouts), *size, err.print)
    finish(folder, as_json, "sharing", sharing.headline(result), result, sharing.figure(result))


@bench.command("results")
@click.argument("studies", nargs=-1, required=True)
@click.option(
    "--storage", type=click.Path(path_type=Path, file_okay=False), default=Path("studies"), show_default=True
)
def bench_results(studies: tuple[str, ...], storage: Path) -> None:
    """Print docs/RESULTS.md: results of finished searches, and of studies with a fixed list of configurations.

    \b
    python tests/benchmarks results ablation-recall paper-listops > docs/RESULTS.md
    """
    from proxytune.tuning.store.study import open_study
    from tests.benchmarks.results import page, section
    from tests.benchmarks.search_results import is_search, search_section

    found = [open_study(name, storage) for name in studies]
    click.echo(
        page([search_section(study) if is_search(study) else section(study) for study in found]), nl=False
    )


@bench.command("table")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
def bench_table(folder: Path) -> None:
    """Print the newest results of FOLDER as a Markdown table.

    \b
    python tests/benchmarks table build/bench
    """
    from tests.benchmarks.table import markdown_table, newest_results

    results = newest_results(folder)
    if not results:
        raise InputError(f"{folder}: contains no results; run a benchmark with --out {folder}")
    click.echo(markdown_table(results))


@bench.command("tracking")
@click.option("--uri", help="URI of the MLflow store to fill; default: a temporary sqlite file.")
@click.option("--runs", default="100,1000,5000", show_default=True, help="Numbers of runs in the store.")
@click.option(
    "--reports",
    "num_reports",
    default=4000,
    show_default=True,
    help="Number of reports to ship at each size.",
)
@measured
def bench_tracking(
    uri: str | None, runs: str, num_reports: int, folder: Path, quick: bool, as_json: bool
) -> None:
    """Reports shipped to MLflow per second by the size of the store, and the overhead for the search.

    \b
    python tests/benchmarks tracking --quick
    python tests/benchmarks tracking --uri postgresql+psycopg://me@localhost/mlflow
    """
    from proxytune.tuning.spec.locations import check_uri
    from tests.benchmarks import tracking

    uri = check_uri(uri) if uri else None
    sizes = [20, 60] if quick else sorted(numbers("--runs", runs))
    try:
        result = tracking.run(uri, sizes, 400 if quick else num_reports, 20 if quick else 120, err.print)
    except RuntimeError as error:
        raise StorageError(str(error)) from None
    name = f"tracking-{result['store'].partition('+')[0]}"
    finish(folder, as_json, name, tracking.headline(result), result, tracking.figure(result))
