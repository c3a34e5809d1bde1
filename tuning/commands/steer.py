"""`enqueue`, `extend`, `stop`, `pause`, `resume`: requests to a study from other terminals while it runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxytune.tuning.commands.options import (
    database_option,
    out,
    storage_flags,
    storage_option,
    study_argument,
)
from proxytune.tuning.errors import InputError

if TYPE_CHECKING:
    from proxytune.tuning.store.stored_study import StoredStudy


def _confirm(study: "StoredStudy", done: str) -> None:
    """Print what was requested, and when it takes effect."""
    driver = study.driver()
    if driver is None:
        flags = storage_flags(study.spec.storage, study.spec.database)
        when = f"no driver runs {study.name} now; `proxytune run {study.name}{flags}` starts one"
    else:
        when = f"{driver} acts on it within seconds"
    out.print(f"{done}; {when}")


@click.command()
@study_argument
@click.argument("params", nargs=-1, required=True, metavar="KEY=VALUE...")
@storage_option
@database_option
def enqueue(study: str, params: tuple[str, ...], storage: Path, database: str | None) -> None:
    """Queue a configuration of STUDY before those that the sampler proposes. Works while it runs.

    \b
    proxytune enqueue listops-mini model.num_proxies=64 model.dropout=0.2
    """
    from proxytune.tuning.spec.yaml_file import parse_yaml
    from proxytune.tuning.store.steering import enqueue as enqueue_params
    from proxytune.tuning.store.study import open_study

    pairs = [param.partition("=") for param in params]
    for key, equals, _ in pairs:
        if not equals:
            raise InputError(f"{key}: write it as key=value, for example model.dropout=0.2")
    opened = open_study(study, storage, database)
    enqueue_params(opened, {key: parse_yaml(value, where=key) for key, _, value in pairs})
    _confirm(opened, f"queued {', '.join(params)}")


@click.command()
@study_argument
@click.option("--trials", "num_trials", type=int, required=True, help="Total number of trials.")
@storage_option
@database_option
def extend(study: str, num_trials: int, storage: Path, database: str | None) -> None:
    """Set the total number of trials of STUDY; it cannot be smaller than the number of started trials.

    Works while it runs; otherwise `run` resumes it with the new number.

    \b
    proxytune extend listops-mini --trials 30
    """
    from proxytune.tuning.store.steering import extend as set_budget
    from proxytune.tuning.store.table_study import read_study

    opened = read_study(study, storage, database)
    set_budget(opened, num_trials)
    _confirm(opened, f"set the budget of {study} to {num_trials} trials")


@click.command()
@study_argument
@click.option(
    "--now", is_flag=True, help="Interrupt running trials at their next update instead of waiting for them."
)
@click.option("--trial", "number", type=int, help="Stop only this trial; it cannot be resumed.")
@click.option("--address", metavar="URL", help="Instead, stop its job on the cluster with this dashboard.")
@storage_option
@database_option
def stop(
    study: str, now: bool, number: int | None, address: str | None, storage: Path, database: str | None
) -> None:
    """Request the driver of STUDY to stop, from any terminal; `run` resumes it later.

    \b
    proxytune stop listops-mini
    proxytune stop listops-mini --now
    proxytune stop listops-mini --trial 7
    proxytune stop listops --address http://head:8265
    """
    if address is not None:
        if now or number is not None:
            raise InputError("--address stops the whole job at once; omit --now and --trial")
        from proxytune.tuning.cluster.jobs import Jobs

        Jobs(address).stop(study)
        out.print(f"stopped the job of {study} at {address}")
        return
    from proxytune.tuning.store.steering import cancel_trial, request_stop
    from proxytune.tuning.store.table_study import read_study

    opened = read_study(study, storage, database)
    if number is not None:
        cancel_trial(opened, number)
        _confirm(opened, f"requested the end of trial {number} of {study}")
        return
    if request_stop(opened, now=now) is None:
        out.print(
            f"no driver runs {study} now; a driver that is starting will stop",
        )
        return
    _confirm(opened, f"requested {study} to stop {'now' if now else 'after its running trials'}")


@click.command()
@study_argument
@storage_option
@database_option
def pause(study: str, storage: Path, database: str | None) -> None:
    """Interrupt the running trials of STUDY with a checkpoint and start no trial until `resume`.

    The driver keeps running; its workers are free.

    \b
    proxytune pause listops-mini
    """
    from proxytune.tuning.store.steering import pause as set_pause
    from proxytune.tuning.store.table_study import read_study

    opened = read_study(study, storage, database)
    set_pause(opened, on=True)
    _confirm(opened, f"requested {study} to pause")


@click.command()
@study_argument
@storage_option
@database_option
def resume(study: str, storage: Path, database: str | None) -> None:
    """Let a paused STUDY start trials again. (`run` resumes a stopped study.)

    \b
    proxytune resume listops-mini
    """
    from proxytune.tuning.store.steering import pause as set_pause
    from proxytune.tuning.store.table_study import read_study

    opened = read_study(study, storage, database)
    set_pause(opened, on=False)
    _confirm(opened, f"requested {study} to resume")
