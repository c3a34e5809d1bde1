"""`slurm`: a study as a Slurm job; the batch script is printed or submitted."""

import math
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxytune.tuning.commands.options import err, with_study_file
from proxytune.tuning.errors import InputError, ProxytuneError

if TYPE_CHECKING:
    from proxytune.tuning.spec.study_spec import StudySpec

SCRIPT = Path(__file__).with_name("slurm.sbatch")
MARKER = "#STUDY\n"
MIN_MINUTES = 10
"""A shorter job would mostly start Ray and write checkpoints, which are requested 3 minutes before its end."""
_VALUE = re.compile(r"[^\s'\"\\#]+")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")


@click.command()
@with_study_file(stored=True)
@click.option("--partition", "-p", metavar="NAME", help="Partition; default: that of the cluster.")
@click.option("--account", "-A", metavar="NAME", help="Account to charge.")
@click.option(
    "--time", "-t", "limit", metavar="TIME", help="Time limit of a job in Slurm's format, such as 4:00:00."
)
@click.option("--nodes", "-N", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--gpus", "-G", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs per node.")
@click.option(
    "--cpus",
    "-c",
    type=click.IntRange(min=1),
    help="Cores per node; default: resources.cpu per GPU.",
)
@click.option(
    "--sbatch",
    "more",
    multiple=True,
    metavar="OPTION",
    help="Any other option of sbatch, e.g. --sbatch=--mem=64G.",
)
@click.option("--submit", is_flag=True, help="Submit the script with sbatch and print the job's id.")
def slurm(
    spec: "StudySpec",
    partition: str | None,
    account: str | None,
    limit: str | None,
    nodes: int,
    gpus: int,
    cpus: int | None,
    more: tuple[str, ...],
    submit: bool,
) -> None:
    """Print the batch script that runs STUDY on a Slurm cluster, or submit it, to start or resume STUDY.

    Before its time limit the job lets every trial write a checkpoint and requeues itself, until the study's
    budget is met. Of several jobs of a study, only one runs at a time.

    \b
    proxytune slurm listops --storage /shared/studies --partition gpu --gpus 4 --time 4:00:00
    proxytune slurm listops --storage /shared/studies --gpus 4 --time 4:00:00 --sbatch=--qos=long --submit
    """
    if limit is not None and parse_minutes(limit) < MIN_MINUTES:
        raise InputError(f"--time {limit}: must be at least {MIN_MINUTES} minutes")
    cpus = cpus or spec.resources.cpu * max(gpus, 1)
    _check_room(spec, gpus, cpus)
    options = {
        "--job-name": f"proxytune-{spec.name}",
        "--dependency": "singleton",
        "--output": f"proxytune-{spec.name}-%j.out",
        "--partition": partition,
        "--account": account,
        "--time": limit,
        "--nodes": str(nodes),
        "--gpus-per-node": str(gpus) if gpus else None,
        "--cpus-per-task": str(cpus),
    }
    given = [*(f"{name}={value}" for name, value in options.items() if value is not None), *more]
    script = batch_script(spec, given, sys.executable)
    if not submit:
        click.echo(script, nl=False)
        return
    click.echo(_sbatch(script))
    err.print(f"output: proxytune-{spec.name}-JOB.out in this folder")


def batch_script(spec: "StudySpec", options: list[str], python: str) -> str:
    """Build the batch script with sbatch's options, the interpreter and the resolved study.

    Raises:
        InputError: the study's storage is not absolute, or an option is not a long option of sbatch.
    """
    if not spec.storage.is_absolute():
        raise InputError(
            f"storage: {spec.storage} is relative; a job needs an absolute folder that all nodes "
            "share, such as --storage /shared/studies"
        )
    for option in options:
        if not option.startswith("--") or not _VALUE.fullmatch(option):
            raise InputError(f"{option!r} is not a long option of sbatch, such as --mem=64G")
    head, last, body = SCRIPT.read_text(encoding="utf-8").rpartition("#SBATCH --open-mode=append\n")
    lines = "".join(f"#SBATCH {option}\n" for option in options)
    from proxytune.tuning.spec.yaml_file import as_yaml

    study = as_yaml(spec.model_dump(mode="json"))
    given = (
        f"cat >\"$scratch/study.yaml\" <<'END_OF_STUDY'\n{study}END_OF_STUDY\n"
        'set -- "$scratch/study.yaml"\n'
    )  # fmt: skip
    body = body.replace("PYTHON=${PYTHON:-python3}", f"PYTHON={shlex.quote(python)}").replace(MARKER, given)
    return head + last + lines + body


def _check_room(spec: "StudySpec", gpus: int, cpus: int) -> None:
    """Reject nodes on which no trial fits, before the job waits in a queue."""
    needs = spec.resources
    if cpus < needs.cpu:
        raise InputError(f"--cpus {cpus}: a trial needs {needs.cpu} (resources.cpu)")
    if needs.gpu != "auto" and needs.gpu > gpus:
        raise InputError(f"--gpus {gpus}: a trial needs {needs.gpu:g} (resources.gpu)")


def parse_minutes(limit: str) -> float:
    """Parse a time limit in Slurm's formats M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; in minutes.

    Raises:
        InputError: it has another format.
    """
    match = _TIME.fullmatch(limit)
    if match is None:
        raise InputError(f"--time {limit}: not in Slurm's formats M, M:S, H:M:S, D-H, D-H:M, D-H:M:S")
    fields = [int(match[name]) for name in ("first", "second", "third") if match[name] is not None]
    from_hours = match["days"] is not None or len(fields) == 3
    units = (60.0, 1.0, 1 / 60) if from_hours else (1.0, 1 / 60)
    return int(match["days"] or 0) * 1440 + sum(map(math.prod, zip(fields, units, strict=False)))


def _sbatch(script: str) -> str:
    """Submit the script and return the job's id.

    Raises:
        InputError: sbatch is not installed.
        ProxytuneError: Slurm rejects the job.
    """
    try:
        done = subprocess.run(
            ["sbatch", "--parsable"], input=script, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise InputError(
            "sbatch not found: --submit works on a login node of a Slurm cluster; without --submit the script is printed"
        ) from None
    if done.returncode != 0:
        lines = done.stderr.replace("sbatch: error: ", "").splitlines()
        raise ProxytuneError(f"sbatch: {'; '.join(lines) or f'exit code {done.returncode}'}")
    return done.stdout.strip().partition(";")[0]
