"""`run`, `studies`, `show`, `trials`: run studies and show their results."""

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from proxytune.tuning.commands.options import (
    address_option,
    database_option,
    err,
    json_option,
    next_commands,
    out,
    print_json,
    quiet_optuna,
    storage_flags,
    storage_option,
    study_argument,
    with_study_file,
)
from proxytune.tuning.errors import InputError
from proxytune.tuning.store.importing import importing

if TYPE_CHECKING:
    from proxytune.tuning.cluster.session import RaySession
    from proxytune.tuning.spec.study_spec import StudySpec
    from proxytune.tuning.store.study import Study


@click.command()
@with_study_file(stored=True)
@address_option
@json_option
def run(spec: "StudySpec", address: str, as_json: bool) -> None:
    """Run STUDY until its budget is met: start it or resume it (same name, same spec).

    STUDY is a file, the name of a shipped study, or the name of a study in the storage, which is resumed with its
    stored spec. Ctrl-C stops it with a checkpoint of every running trial; the same command resumes it.

    \b
    proxytune run listops-mini
    proxytune run my-study.yaml --set task.root=~/data/lra_release --set resources.max_concurrent=4
    proxytune run listops --storage /mnt/studies --address auto
    """
    from proxytune.tuning.spec.advice import advice

    for line in advice(spec):
        err.print(line, style="yellow")
    with err.status("loading"), importing():
        from proxytune.tuning.run.data_progress import data_progress
        from proxytune.tuning.trial.data import prepare_task
    if address != "local":
        from proxytune.tuning.cluster.session import find_cluster

        find_cluster(address)  # reports a wrong address before the data are prepared
    with data_progress(err, spec.task.name) as report:
        prepared = prepare_task(spec.task, report)
    if prepared.compared:
        err.print(f"data: {prepared.compared}")
    with _early_ray(spec, address) as session:
        study = _run(spec, address, session)
    from proxytune.tuning.store.summary import summary

    facts = summary(study)
    if as_json:
        print_json(facts)
    else:
        show_summary(facts)
    _show_tracking(spec, study.tracking_uri)
    where = storage_flags(spec.storage, spec.database)
    next_commands(
        {
            f"proxytune confirm {spec.name}{where}": "the best again on fresh seeds",
            f"proxytune export {spec.name}{where} --out winner": "the winner as a folder",
            f"proxytune ui{storage_flags(spec.storage, None)}": "every trial in MLflow",
        }
    )


@contextmanager
def _early_ray(spec: "StudySpec", address: str) -> "Iterator[AbstractContextManager[RaySession] | None]":
    """Start a local Ray before the driver's libraries are loaded, if the study is new: a stored study may need no Ray."""
    if address != "local" or spec.folder.exists():
        yield None
        return
    from proxytune.tuning.cluster.early_session import early_session

    with early_session() as session:
        yield session


def _run(spec: "StudySpec", address: str, session: "AbstractContextManager[RaySession] | None") -> "Study":
    with err.status("loading"), importing():
        from proxytune.tuning.run.driver import run_study
        from proxytune.tuning.run.progress import Watch
        from proxytune.tuning.store.process import process_age
    quiet_optuna()
    return run_study(
        spec,
        address=address,
        watch=functools.partial(Watch, err),
        age=process_age(),
        say=lambda line: err.print(line),
        session=session,
    )


def _show_tracking(spec: "StudySpec", uri: str) -> None:
    """Print where MLflow shows the study, and the number of waiting events."""
    from proxytune.tuning.tracking.acknowledgement import num_waiting
    from proxytune.tuning.tracking.links import leaderboard_path

    if path := leaderboard_path(spec.folder / "outbox", uri):
        if uri.startswith("http"):
            click.echo(f"MLflow: {uri.rstrip('/')}{path}", err=True)
        else:
            command = f"proxytune ui {spec.name}{storage_flags(spec.storage, None)}"
            click.echo(f"MLflow: `{command}`, then http://127.0.0.1:5000{path}", err=True)
    if waiting := num_waiting(spec.folder / "outbox", uri, spec.tracking.experiment):
        where = storage_flags(spec.storage, spec.database)
        err.print(
            f"{waiting} events still wait for MLflow at {uri}; when it is available, "
            f"`proxytune track sync {spec.name}{where}` ships them",
            style="yellow",
        )


@click.command()
@storage_option
@database_option
@json_option
def studies(storage: Path, database: str | None, as_json: bool) -> None:
    """List the studies of a storage: state, trials ended, budget, and the best value.

    \b
    proxytune studies
    proxytune studies --storage /mnt/studies --json
    """
    from proxytune.tuning.store.listing import list_studies

    rows = list_studies(storage, database)
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print(f"no study in {database or storage.absolute()}")
        return
    table = Table("study", "task", "state", "trials", "best", box=None)
    for row in rows:
        best = "-" if row["best"] is None else f"{row['best']:.4g}"
        table.add_row(row["study"], row["task"], row["state"], f"{row['ended']} of {row['budget']}", best)
    out.print(table)


@click.command()
@study_argument
@storage_option
@database_option
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also plot the Pareto front into a new .html file.",
)
@json_option
def show(study: str, storage: Path, database: str | None, plot: Path | None, as_json: bool) -> None:
    """Show the state of STUDY: trials by outcome, the winner, the Pareto front, the confirmation, events for MLflow.

    \b
    proxytune show listops-mini
    proxytune show listops-mini --storage /mnt/studies --json
    proxytune show listops-mini --plot front.html
    """
    from proxytune.tuning.commands.confirm import show_confirmation
    from proxytune.tuning.store.confirmation import read_confirmation
    from proxytune.tuning.store.summary import summary
    from proxytune.tuning.store.table_study import read_study
    from proxytune.tuning.tracking.acknowledgement import last_error, num_waiting

    opened = read_study(study, storage, database)
    if plot is not None:
        if plot.exists() or plot.suffix != ".html":
            raise InputError(f"--plot {plot}: name a new file that ends in .html")
        from proxytune.tuning.report.page import write_pareto_front

        write_pareto_front(opened.folder / "outbox", plot)
        err.print(f"written: {plot.absolute()}")
    destination = (opened.folder / "outbox", opened.tracking_uri, opened.spec.tracking.experiment)
    confirmation = read_confirmation(opened)
    facts = summary(opened) | {
        "confirmation": None if confirmation is None else confirmation.to_json(),
        "folder": str(opened.folder),
        "tracking_uri": opened.tracking_uri,
        "events_waiting": num_waiting(*destination),
        "tracking_error": last_error(*destination),
    }
    if as_json:
        print_json(facts)
    else:
        show_summary(facts)
        if confirmation is not None:
            show_confirmation(confirmation)
        if facts["events_waiting"]:
            out.print(f"{facts['events_waiting']} events wait for MLflow at {facts['tracking_uri']}")
        if facts["tracking_error"]:
            out.print(facts["tracking_error"])


def short(key: str) -> str:
    """A searched key without its section, for a column head."""
    return key.rpartition(".")[2]


def show_summary(facts: dict[str, Any]) -> None:
    """Print a study's summary."""
    from proxytune.tuning.plan.time_left import duration

    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(facts["outcomes"].items()))
    out.print(f"{facts['study']}: {facts['trials']} of {facts['budget']} trials ({outcomes})")
    if facts["paused_by"]:
        out.print(f"paused by {facts['paused_by']}; `proxytune resume {facts['study']}` resumes it")
    if facts["seconds_left"] is not None:
        out.print(f"about {duration(facts['seconds_left'])} left")
    if facts["waits"]:
        out.print(facts["waits"])
    if facts["ended_because"]:
        out.print(f"ended because {facts['ended_because']}; `extend` continues it")
    if not facts["best"]:
        out.print("no feasible trial has reached the full budget yet")
        return
    found = facts["winner"]
    out.print(f"winner: trial {found['trial']} ({found['rule']})")
    title = "Pareto front" if len(facts["objectives"]) > 1 else None
    table = Table(title=title, title_justify="left")
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


@click.command()
@study_argument
@storage_option
@database_option
@json_option
def trials(study: str, storage: Path, database: str | None, as_json: bool) -> None:
    """List every trial of STUDY with its outcome, parameters and last metrics.

    \b
    proxytune trials listops-mini
    proxytune trials listops-mini --json | jq '.[] | select(.outcome == "pruned")'
    """
    from proxytune.tuning.store.summary import trial_row
    from proxytune.tuning.store.table_study import read_study

    opened = read_study(study, storage, database)
    objectives = list(opened.spec.search.objectives)
    rows = [trial_row(trial, objectives[0]) for trial in opened.trials()]
    if as_json:
        print_json(rows)
        return
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
