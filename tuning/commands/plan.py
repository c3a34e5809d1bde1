"""`plan`: predict time and memory of a study before it runs."""

import os
from typing import TYPE_CHECKING

import click
from rich.table import Table

from proxytune.tuning.commands.options import (
    address_option,
    err,
    json_option,
    out,
    print_json,
    quiet_optuna,
    with_study_file,
)
from proxytune.tuning.errors import InputError

if TYPE_CHECKING:
    from proxytune.tuning.plan.plan import Interval, Plan
    from proxytune.tuning.spec.study_spec import StudySpec


@click.command()
@with_study_file(stored=True)
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    help="Number of concurrent trials; default: as many as fit at --address.",
)
@click.option(
    "--step-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds per optimizer step of the first enqueued configuration; default: measured on this machine.",
)
@address_option
@json_option
def plan(
    spec: "StudySpec", slots: int | None, step_seconds: float | None, address: str, as_json: bool
) -> None:
    """Predict the time, slot-hours, trials at each rung and memory of STUDY.

    The study is simulated in virtual time with its sampler, rungs and budget, for several draws of random learning
    curves. Costs are measured on this machine at a few points of the space, in as many processes as concurrent trials,
    which takes seconds to minutes; with --step-seconds, costs are scaled by FLOPs instead. Intervals
    contain 90 % of the draws. Only prepared data are written.

    \b
    proxytune plan listops-mini
    proxytune plan my-study.yaml --slots 16 --step-seconds 0.2 --json
    """
    slots = slots or _slots(spec, address)
    if step_seconds is None:
        _prepare(spec)
    quiet_optuna()
    with err.status("loading") as status:
        from proxytune.tuning.plan.costs import Costs, predicted_costs, star
        from proxytune.tuning.plan.plan import START_PROCESSES, make_plan

        points = star(spec)
        if step_seconds is not None:
            costs, start = predicted_costs(spec, points, step_seconds), 0.0
        else:
            from proxytune.tuning.plan.meter import measure

            status.update(f"measuring {len(points)} configurations")
            measured = measure(spec, points, slots)
            costs = measured.costs
            start = START_PROCESSES * measured.process_start + measured.first_prediction
        found = make_plan(spec, Costs(points, costs), slots, start, status.update)
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)


def _prepare(spec: "StudySpec") -> None:
    """Check that trials can be measured on this machine, and prepare the data."""
    from proxytune.tuning.run.data_progress import data_progress
    from proxytune.tuning.trial.data import prepare_task
    from proxytune.tuning.trial.local_checks import check_data, check_device

    check_device(spec)
    with data_progress(err, spec.task.name) as report:
        check_data(spec, prepare_task(spec.task, report))


def _slots(spec: "StudySpec", address: str) -> int:
    """The number of concurrent trials at `address`; trials that share GPUs (`gpu: auto`) count as one per GPU.

    Raises:
        InputError: no trial fits.
    """
    if address == "local":
        cpus = len(os.sched_getaffinity(0))
        if spec.resources.cpu > cpus:
            raise InputError(f"resources.cpu: {spec.resources.cpu} is more than this machine has ({cpus})")
        fits = cpus // spec.resources.cpu
        return min(fits, spec.resources.max_concurrent or fits)
    from proxytune.tuning.cluster.session import ray_session

    with ray_session(address) as session:
        return session.slots(session.trial_resources(spec.resources), spec.resources.max_concurrent)


def _show(plan: "Plan") -> None:
    from proxytune.tuning.plan.time_left import duration

    table = Table("", "median", "90 % of draws", box=None)

    def row(name: str, interval: "Interval", spec: "str | None" = None) -> None:
        texts = [
            duration(value) if spec is None else format(value, spec)
            for value in (interval.median, interval.low, interval.high)
        ]
        table.add_row(name, texts[0], f"{texts[1]} to {texts[2]}")

    row("time", plan.seconds)
    row("slot-hours", plan.slot_hours, ".3g")
    row("busy slots", plan.busy, ".0%")
    row("steps", plan.steps, ",.0f")
    for step, trials in plan.trials.items():
        row(f"trials to step {step}", trials, ".0f")
    row("MiB per slot", plan.memory_mib, ",.0f")
    row("ms per step", plan.step_milliseconds, ".3g")
    out.print(f"{plan.study} on {plan.slots} slots, {plan.draws} draws")
    out.print(table)
