"""`track` and `report`: ship a study's journal to MLflow, and write it as a page."""

import functools
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxytune.tuning.commands.options import (
    database_option,
    err,
    json_option,
    out,
    print_json,
    quiet_optuna,
    storage_option,
)
from proxytune.tuning.errors import HeldError, InputError, StorageError

if TYPE_CHECKING:
    from proxytune.tuning.store.study import Study


@click.group()
def track() -> None:
    """Ship a study's tracking events to MLflow, which mirrors the study's journal."""


@track.command("sync")
@click.argument("study")
@storage_option
@database_option
@click.option("--timeout", default=600.0, show_default=True, help="Seconds after which to give up.")
@json_option
def sync(study: str, storage: Path, database: str | None, timeout: float, as_json: bool) -> None:
    """Ship the waiting events of STUDY to its MLflow, and end the runs that a killed driver left open.

    \b
    proxytune track sync listops
    """
    from proxytune.tuning.store.study import open_study

    opened = open_study(study, storage, database)
    try:
        _repair(opened)
    except HeldError as error:
        raise HeldError(
            f"a driver runs {study} and ships its events; see `proxytune show {study}`"
        ) from error
    _ship(opened.folder / "outbox", opened.tracking_uri, opened.spec.tracking.experiment, timeout, as_json)


@track.command("rebuild")
@click.argument("study")
@storage_option
@database_option
@click.option(
    "--uri", required=True, help="Target MLflow: http(s)://..., postgresql+psycopg://..., sqlite:////..."
)
@click.option("--experiment", help="Target experiment; default: that of the study file.")
@click.option("--timeout", default=3600.0, show_default=True, help="Seconds after which to give up.")
@json_option
def rebuild(
    study: str,
    storage: Path,
    database: str | None,
    uri: str,
    experiment: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Write STUDY to another MLflow. May be repeated: only missing events are shipped.

    The source is the journal; if it lost trials, they are restored from the study's storage and checkpoints.

    \b
    proxytune track rebuild listops --uri http://mlflow.example:5000
    """
    from proxytune.tuning.store.study import open_study

    opened = open_study(study, storage, database)
    with suppress(HeldError):  # a running driver repairs the journal itself
        _repair(opened)
    _ship(opened.folder / "outbox", uri, experiment or opened.spec.tracking.experiment, timeout, as_json)


@click.command()
@click.argument("study", required=False)
@storage_option
@click.option(
    "--bank",
    help="Instead of STUDY: a study of the curve bank that comes with the package.",
)
@click.option(
    "--out",
    "path",
    type=click.Path(path_type=Path),
    help="Output file; default: report.html in the study's folder, with --bank the study's name with .html.",
)
def report(study: str | None, storage: Path, bank: str | None, path: Path | None) -> None:
    """Write STUDY as a self-contained HTML page: state, best trials, plots.

    \b
    proxytune report listops-mini
    proxytune report listops --storage /mnt/studies --out listops.html
    proxytune report --bank text-512-proxyformer --out text.html
    """
    if (study is None) == (bank is None):
        raise InputError("report: name one of STUDY and --bank")
    quiet_optuna()
    if bank is not None:
        from proxytune.tuning.journal.bank import open_banked

        page = path or Path(f"{bank}.html")
        if path is None and page.exists():
            raise InputError(f"{page} exists; name the output file with --out")
        with open_banked(bank) as outbox:
            _write_report(outbox, page)
        return
    folder = storage.absolute() / str(study)
    if not (folder / "outbox").is_dir():
        raise InputError(f"no study {study} in {storage.absolute()}; set its folder with --storage")
    _write_report(folder / "outbox", path or folder / "report.html")


def _write_report(outbox: Path, path: Path) -> None:
    from proxytune.tuning.report.page import write_report

    try:
        write_report(outbox, path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from None
    out.print(str(path))


def _repair(study: "Study") -> None:
    """Close the trials that a killed driver left open in the journal, and restore lost events."""
    from proxytune.tuning.journal.recovery import open_journal, recover
    from proxytune.tuning.run.journal import FencedOutbox
    from proxytune.tuning.store.lease import Lease

    lease = Lease(study.storage, study.name)
    lease.acquire()
    try:
        outbox = open_journal(study, functools.partial(FencedOutbox, lease=lease))
        try:
            if num_trials := recover(study, outbox):
                err.print(
                    f"events of {num_trials} trials were missing in the journal and have been restored from the storage",
                )
        finally:
            outbox.close()
    except OSError as error:
        raise StorageError(f"{study.folder / 'outbox'}: {error.strerror}") from None
    finally:
        lease.release()


def _ship(outbox_folder: Path, uri: str, experiment: str, timeout: float, as_json: bool) -> None:
    """Ship the events that the destination lacks; each new error is printed once."""
    from proxytune.tuning.tracking.acknowledgement import num_waiting
    from proxytune.tuning.tracking.shipper import Shipper

    num_events = num_waiting(outbox_folder, uri, experiment)
    shipper = Shipper(outbox_folder, uri, experiment)
    shipper.start()
    printed: str | None = None
    deadline = time.monotonic() + timeout
    while shipper.waiting and time.monotonic() < deadline:
        if shipper.error and shipper.error != printed:
            printed = shipper.error
            err.print(printed, style="yellow")
        time.sleep(0.1)
    waiting = shipper.close(max(0.0, deadline - time.monotonic()))
    facts = {"shipped": num_events - waiting, "waiting": waiting, "uri": uri, "experiment": experiment}
    if as_json:
        print_json(facts | {"error": shipper.error})
    elif not waiting:
        out.print(f"{facts['shipped']} events shipped to {uri}, experiment {experiment}")
    if waiting:
        raise StorageError(
            f"{waiting} events still wait for MLflow: {shipper.error or '--timeout has passed'}"
        )
