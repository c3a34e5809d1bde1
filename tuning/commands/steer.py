"""`enqueue`, `extend`, `stop`, `pause`, `resume`: requests to the driver of a study."""

from pathlib import Path

import click

from proxytune.tuning.commands.options import database_option, err, storage_option
from proxytune.tuning.errors import InputError


@click.command()
@click.argument("study")
@click.argument("params", nargs=-1, required=True, metavar="KEY=VALUE...")
@storage_option
@database_option
def enqueue(study: str, params: tuple[str, ...], storage: Path, database: str | None) -> None:
    """Put a configuration of STUDY before anything that the sampler proposes. Works while it runs.

    \b
    proxytune enqueue listops-mini model.num_proxies=64 model.dropout=0.2
    """
    from proxytune.tuning.spec.yaml_file import parse_yaml
    from proxytune.tuning.store.steering import enqueue as put_first
    from proxytune.tuning.store.study import open_study

    pairs = [param.partition("=") for param in params]
    for key, equals, _ in pairs:
        if not equals:
            raise InputError(f"{key}: write it as key=value, for example model.dropout=0.2")
    put_first(
        open_study(study, storage, database), {key: parse_yaml(value, where=key) for key, _, value in pairs}
    )


@click.command()
@click.argument("study")
@click.option("--trials", "num_trials", type=int, required=True, help="The number of trials in all.")
@storage_option
@database_option
def extend(study: str, num_trials: int, storage: Path, database: str | None) -> None:
    """Set how many trials STUDY may take: more, or fewer, but not fewer than were started.

    Works while it runs; otherwise `run` resumes it with the new number.

    \b
    proxytune extend listops-mini --trials 30
    """
    from proxytune.tuning.store.steering import extend as grow
    from proxytune.tuning.store.study import open_study

    grow(open_study(study, storage, database), num_trials)


@click.command()
@click.argument("study")
@click.option(
    "--now", is_flag=True, help="Interrupt running trials at their next update instead of waiting for them."
)
@click.option("--trial", "number", type=int, help="End this trial for good, and nothing else.")
@click.option(
    "--address", metavar="URL", help="Stop its job on the cluster whose dashboard is there instead."
)
@storage_option
@database_option
def stop(
    study: str, now: bool, number: int | None, address: str | None, storage: Path, database: str | None
) -> None:
    """Ask the driver that runs STUDY to stop, from any terminal; `run` goes on later.

    \b
    proxytune stop listops-mini
    proxytune stop listops-mini --now
    proxytune stop listops-mini --trial 7
    proxytune stop listops --address http://head:8265
    """
    if address is not None:
        if now or number is not None:
            raise InputError("--address stops the whole job, at once; leave --now and --trial out")
        from proxytune.tuning.cluster.jobs import Jobs

        Jobs(address).stop(study)
        return
    from proxytune.tuning.store.steering import cancel_trial, request_stop
    from proxytune.tuning.store.study import open_study

    opened = open_study(study, storage, database)
    if number is not None:
        cancel_trial(opened, number)
    else:
        if request_stop(opened, now=now) is None:
            err.print(
                f"no driver holds study {study}; one that is just starting will stop",
                highlight=False,
                markup=False,
            )


@click.command()
@click.argument("study")
@storage_option
@database_option
def pause(study: str, storage: Path, database: str | None) -> None:
    """Hand the running trials of STUDY back with a checkpoint and start none until `resume`.

    The driver stays; its workers are free meanwhile.
    """
    from proxytune.tuning.store.steering import pause as set_pause
    from proxytune.tuning.store.study import open_study

    set_pause(open_study(study, storage, database), on=True)


@click.command()
@click.argument("study")
@storage_option
@database_option
def resume(study: str, storage: Path, database: str | None) -> None:
    """Let a paused STUDY go on. (A stopped one goes on with `run`.)"""
    from proxytune.tuning.store.steering import pause as set_pause
    from proxytune.tuning.store.study import open_study

    set_pause(open_study(study, storage, database), on=False)
