"""The command line: verbs only, each a call into the rest of the room."""

import functools
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from rich.console import Console
from rich.table import Table

from proxytune.datasets import DataError
from proxytune.tuning.errors import InputError, ProxytuneError
from proxytune.tuning.spec import StudySpec, load_study

P = ParamSpec("P")
R = TypeVar("R")

err = Console(stderr=True, soft_wrap=True)
out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 200)

set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the study file, e.g. --set training.steps=500. May be repeated.",
)
storage_option = click.option(
    "--storage",
    type=click.Path(path_type=Path),
    default=Path("studies"),
    show_default=True,
    help="The folder that holds all studies.",
)
database_option = click.option(
    "--database", metavar="URL", help="Optuna's storage, if it is not the sqlite file in the study's folder."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Verbs(click.Group):
    """The exit codes: 0 done, 1 failed, 2 wrong input, 3 held by another driver, 5 storage, 75 interrupted, goes on."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=Verbs, epilog="Exit codes: " + (Verbs.__doc__ or "").partition(": ")[2])
@click.version_option(package_name="proxytune")
def cli() -> None:
    """Search the hyperparameters of Proxyformer and its peers on the Long Range Arena.

    \b
    proxytune check listops-mini                 what would run
    proxytune run listops-mini                   start or resume
    proxytune show listops-mini                  the best so far
    proxytune export listops-mini --out winner   the winner as a folder
    proxytune ui                                 browse in MLflow
    """
    # Optuna says in a log line what our table shows; experimental parts are chosen with care.
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    logging.getLogger("ray").setLevel(logging.ERROR)


def main() -> None:
    """Entry point: every foreseeable error is one line and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(75)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DataError as error:
        err.print(f"proxytune: {error}", style="red", highlight=False, markup=False)
        sys.exit(2)
    except ProxytuneError as error:
        err.print(f"proxytune: {error}", style="red", highlight=False, markup=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(75)
    except BrokenPipeError:
        sys.exit(1)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, default=str))


def with_study_file(command: Callable[P, R]) -> Callable[..., R]:
    """Give a verb its STUDY argument (file or shipped name) and --set, resolved to a spec."""

    @click.argument("study")
    @set_option
    @click.option(
        "--storage",
        type=click.Path(path_type=Path),
        help="The folder that holds all studies; overrides the study file.",
    )
    @functools.wraps(command)
    def resolved(
        *args: Any, study: str, assignments: tuple[str, ...], storage: Path | None, **rest: Any
    ) -> R:
        spec = load_study(
            study, (*assignments, *([f"storage={json.dumps(str(storage))}"] if storage else []))
        )
        return command(*args, spec=spec, **rest)  # type: ignore[arg-type]

    return resolved


@cli.group()
def data() -> None:
    """Prepare the tasks' data on this machine."""


@data.command("prepare")
@click.argument("task")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder or archive with the data; none: generated."
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the task, e.g. max_length=1000.",
)
@json_option
def data_prepare(task: str, root: Path | None, options: tuple[str, ...], as_json: bool) -> None:
    """Find or generate TASK's data and convert it once for all studies of this machine.

    \b
    proxytune data prepare listops
    proxytune data prepare text --root ~/data/aclImdb_v1.tar.gz --option max_length=4000
    """
    from proxytune.tuning.data import prepare_task
    from proxytune.tuning.progress import data_progress
    from proxytune.tuning.trial_spec import Task
    from proxytune.tuning.validation import validated
    from proxytune.tuning.yaml_file import override

    values = override({"name": task, "root": root}, options)
    with data_progress(err, task) as report:
        prepared = prepare_task(validated(Task, values, "data prepare"), report)
    facts = {
        "task": prepared.info.name,
        "folder": str(prepared.folder),
        "fingerprint": prepared.fingerprint,
        "examples": {"train": len(prepared.train), "validation": len(prepared.validation)},
        "vocab_size": prepared.info.vocab_size,
        "max_length": prepared.info.max_length,
        "num_classes": prepared.info.num_classes,
        "conventions": dict(prepared.info.conventions),
    }
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        out.print(f"{key}: {value}", highlight=False, markup=False)


@cli.command()
@with_study_file
@json_option
def check(spec: StudySpec, as_json: bool) -> None:
    """Resolve STUDY and say what would run, without running anything.

    \b
    proxytune check listops
    proxytune check my-study.yaml --set search.trials=100 --json
    """
    if as_json:
        print_json(spec.model_dump(mode="json"))
        return
    from proxytune.tuning.yaml_file import as_yaml

    click.echo(as_yaml(spec.model_dump(mode="json")), nl=False)
    rungs = ", ".join(map(str, spec.rung_steps())) or "none"
    err.print(
        f"{spec.search.trials} trials of up to {spec.training['steps']} steps, compared at steps: {rungs}",
        highlight=False,
    )


@cli.command()
@with_study_file
@json_option
def run(spec: StudySpec, as_json: bool) -> None:
    """Run STUDY until its budget is met: start it, or go on where it was (same name, same spec).

    Ctrl-C stops it with a checkpoint of every running trial; the same command goes on.

    \b
    proxytune run listops-mini
    proxytune run listops --set task.root=~/data/lra_release --set resources.max_concurrent=4
    """
    from proxytune.tuning.data import prepare_task
    from proxytune.tuning.progress import Watch, data_progress
    from proxytune.tuning.study import run_study, summary

    with data_progress(err, spec.task.name) as report:
        prepare_task(spec.task, report)
    study = run_study(spec, watch=functools.partial(Watch, err))
    facts = summary(study)
    if as_json:
        print_json(facts)
    else:
        show_summary(facts)


@cli.command()
@click.argument("study")
@storage_option
@database_option
@json_option
def show(study: str, storage: Path, database: str | None, as_json: bool) -> None:
    """Show how STUDY stands: trials by outcome, the winner or the Pareto front, what waits for MLflow.

    \b
    proxytune show listops-mini
    proxytune show listops-mini --storage /mnt/studies --json
    """
    from proxytune.tuning.study import open_study, summary
    from proxytune.tuning.tracking import num_waiting

    opened = open_study(study, storage, database)
    facts = summary(opened) | {
        "folder": str(opened.folder),
        "tracking_uri": opened.tracking_uri,
        "events_waiting": num_waiting(
            opened.folder / "outbox", opened.tracking_uri, opened.spec.tracking.experiment
        ),
    }
    if as_json:
        print_json(facts)
    else:
        show_summary(facts)
        if facts["events_waiting"]:
            out.print(f"{facts['events_waiting']} events wait for MLflow at {facts['tracking_uri']}")


def short(key: str) -> str:
    """A searched key without its section, for a column's head."""
    return key.rpartition(".")[2]


def show_summary(facts: dict[str, Any]) -> None:
    """A study's summary for people."""
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(facts["outcomes"].items()))
    out.print(
        f"{facts['study']}: {facts['trials']} of {facts['budget']} trials ({outcomes})", highlight=False
    )
    if not facts["best"]:
        out.print("no trial has reached the full budget within the constraints yet", highlight=False)
        return
    table = Table(title="winner" if len(facts["objectives"]) == 1 else "Pareto front", title_justify="left")
    table.add_column("trial", justify="right")
    params = sorted({key for winner in facts["best"] for key in winner["params"]})
    for column in [*facts["objectives"], *map(short, params)]:
        table.add_column(column, justify="right")
    for winner in facts["best"]:
        cells = [*winner["values"].values(), *(winner["params"].get(key, "") for key in params)]
        table.add_row(
            str(winner["trial"]), *(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells)
        )
    out.print(table)


@cli.command()
@click.argument("study")
@storage_option
@database_option
@json_option
def trials(study: str, storage: Path, database: str | None, as_json: bool) -> None:
    """List every trial of STUDY with its outcome, parameters and last metrics.

    \b
    proxytune trials listops-mini
    proxytune trials listops-mini --json | jq '.[] | select(.outcome == "pruned")'
    """
    from proxytune.tuning.ledger import END
    from proxytune.tuning.study import open_study, outcome_of

    opened = open_study(study, storage, database)
    rows = [
        {
            "trial": trial.number,
            "outcome": outcome_of(trial),
            "step": trial.user_attrs.get(END, {}).get("step", max(trial.intermediate_values, default=0)),
            "params": trial.params,
            "metrics": trial.user_attrs.get(END, {}).get("metrics", {}),
            "reason": trial.user_attrs.get(END, {}).get("reason", ""),
        }
        for trial in opened.trials()
    ]
    if as_json:
        print_json(rows)
        return
    objectives = list(opened.spec.search.objectives)
    params = list(opened.spec.search.space)
    table = Table()
    for column in ("trial", "outcome", "step", *objectives, *map(short, params), "reason"):
        table.add_column(column, justify="left" if column in ("outcome", "reason") else "right")
    for row in rows:
        cells = [row["metrics"].get(name, "") for name in objectives] + [
            row["params"].get(key, "") for key in params
        ]
        table.add_row(
            str(row["trial"]),
            row["outcome"],
            str(row["step"]),
            *(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells),
            row["reason"],
        )
    out.print(table)


@cli.command()
@click.argument("study")
@click.argument("params", nargs=-1, required=True, metavar="KEY=VALUE...")
@storage_option
@database_option
def enqueue(study: str, params: tuple[str, ...], storage: Path, database: str | None) -> None:
    """Put a configuration of STUDY before anything that the sampler proposes. Works while it runs.

    \b
    proxytune enqueue listops-mini model.num_proxies=64 model.dropout=0.2
    """
    from proxytune.tuning.study import enqueue as put_first
    from proxytune.tuning.study import open_study
    from proxytune.tuning.yaml_file import parse_yaml

    pairs = [param.partition("=") for param in params]
    for key, equals, _ in pairs:
        if not equals:
            raise InputError(f"{key}: write it as key=value, for example model.dropout=0.2")
    put_first(
        open_study(study, storage, database), {key: parse_yaml(value, where=key) for key, _, value in pairs}
    )


@cli.command()
@click.argument("study")
@click.option("--trials", "num_trials", type=int, required=True, help="The number of trials in all.")
@storage_option
@database_option
def extend(study: str, num_trials: int, storage: Path, database: str | None) -> None:
    """Give STUDY a larger budget. Works while it runs; otherwise `run` goes on with it.

    \b
    proxytune extend listops-mini --trials 30
    """
    from proxytune.tuning.study import extend as grow
    from proxytune.tuning.study import open_study

    grow(open_study(study, storage, database), num_trials)


@cli.command()
@click.argument("study")
@click.option(
    "--now", is_flag=True, help="Interrupt running trials at their next turn instead of waiting for them."
)
@storage_option
@database_option
def stop(study: str, now: bool, storage: Path, database: str | None) -> None:
    """Ask the driver that runs STUDY to stop, from any terminal; `run` goes on later.

    \b
    proxytune stop listops-mini
    proxytune stop listops-mini --now
    """
    from proxytune.tuning.study import open_study, request_stop

    request_stop(open_study(study, storage, database), now=now)


@cli.command()
@click.argument("study")
@click.option("--trial", "number", type=int, help="A trial's number; default: the winner.")
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@storage_option
@database_option
def export(study: str, number: int | None, folder: Path, storage: Path, database: str | None) -> None:
    """Write the winner of STUDY as a folder: configuration, metrics, provenance and weights.

    \b
    proxytune export listops-mini --out winner
    proxytune train winner/config.yaml
    """
    from proxytune.tuning.export import export_trial
    from proxytune.tuning.study import open_study

    opened = open_study(study, storage, database)
    chosen = export_trial(opened, folder, number)
    values = ", ".join(
        f"{name} {value:.4g}"
        for name, value in zip(opened.spec.search.objectives, chosen.values or (), strict=False)
    )
    out.print(f"trial {chosen.number} ({values}) -> {folder.absolute()}", highlight=False)


@cli.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
@click.option(
    "--out", "folder", type=click.Path(path_type=Path), help="Write the trained model as an export folder."
)
@json_option
def train(config: Path, assignments: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
    """Train one configuration: CONFIG is an export's config.yaml, or the export's folder.

    \b
    proxytune train winner/config.yaml
    proxytune train winner --set training.seed=1 --json
    """
    from proxytune.tuning.export import refuse_existing, write_export
    from proxytune.tuning.train import train_once
    from proxytune.tuning.trial_spec import load_trial

    spec = load_trial(config / "config.yaml" if config.is_dir() else config, assignments)
    if folder is not None:
        refuse_existing(folder)
    result = train_once(spec, err)
    if folder is not None:
        write_export(folder, spec, result.metrics, {"source": str(config)}, result.weights)
    if as_json:
        print_json({"step": result.step, "metrics": result.metrics})
    else:
        for name, value in result.metrics.items():
            out.print(f"{name}: {value:.6g}", highlight=False)


@cli.command()
@storage_option
@click.option("--uri", help="MLflow's store, if it is not the sqlite file beside the studies.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=5000, show_default=True)
@click.option("--print-command", is_flag=True, help="Print the command instead of running it.")
def ui(storage: Path, uri: str | None, host: str, port: int, print_command: bool) -> None:
    """Open MLflow on the studies' experiments.

    \b
    proxytune ui
    proxytune ui --storage /mnt/studies --port 5001
    """
    import os
    import shlex

    from proxytune.tuning.tracking import artifact_root, default_uri, server_command

    if uri is None and not (storage / "mlflow.db").exists():
        raise InputError(
            f"{storage.absolute()} holds no mlflow.db; run a study there first, or name it with --uri"
        )
    uri = uri or default_uri(storage)
    command = server_command(uri, Path(artifact_root(uri, storage) or storage), host, port)
    if print_command:
        out.print(shlex.join(command), highlight=False)
        return
    out.print(f"MLflow on http://{host}:{port} (Ctrl-C ends it)", highlight=False)
    os.execvp(command[0], command)


@cli.group()
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
