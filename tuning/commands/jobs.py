"""`submit`, `status`, `logs` (and `stop --address`): studies as jobs of a Ray cluster, from any machine."""

import sys
import time
from typing import TYPE_CHECKING

import click
from rich.table import Table

from proxytune.tuning.commands.options import err, json_option, out, print_json, with_study_file
from proxytune.tuning.errors import RESUMED, Interrupted, ProxytuneError

if TYPE_CHECKING:
    from proxytune.tuning.spec.study_spec import StudySpec

address_option = click.option(
    "--address",
    required=True,
    envvar="RAY_API_SERVER_ADDRESS",
    show_envvar=True,
    metavar="URL",
    help="The dashboard of the cluster's head, e.g. http://head:8265.",
)


@click.command()
@with_study_file()
@address_option
@click.option(
    "--follow", "-f", is_flag=True, help="Print the job's output until it ends; Ctrl-C leaves it running."
)
def submit(spec: "StudySpec", address: str, follow: bool) -> None:
    """Run STUDY as a job of a cluster: start or resume it. Prints the job's id.

    A study has at most one job: while it runs, its id is printed and nothing is submitted. The job gets this version of
    proxytune and the resolved study file. Secrets (PGPASSFILE, MLFLOW_TRACKING_PASSWORD, AWS_...) belong in the
    cluster's environment; the cluster's token is read from RAY_AUTH_TOKEN_PATH here.

    \b
    proxytune submit listops --address http://head:8265 --storage /mnt/studies
    proxytune submit my-study.yaml --address http://head:8265 --storage /mnt/studies --follow
    """
    from proxytune.tuning.cluster.jobs import Jobs
    from proxytune.tuning.cluster.ray_private import untested

    jobs = Jobs(address)
    if (warning := untested(jobs.ray_version)) is not None:
        err.print(warning)
    click.echo(jobs.submit(spec))
    if not follow:
        return
    printed = ""
    try:
        for text in jobs.follow(spec.name):
            click.echo(text, nl=False)
            printed = (printed + text)[-1000:]
    except KeyboardInterrupt:
        err.print(f"{spec.name} continues; `proxytune logs {spec.name} -f` follows it again")
        return
    end = jobs.newest(spec.name)
    while end is not None and end.alive:  # the log ends shortly before the job
        time.sleep(0.2)
        end = jobs.newest(spec.name)
    status = end.status if end is not None else "forgotten by the cluster"
    if status == "STOPPED" or " ".join(printed.split()).endswith(RESUMED):
        raise Interrupted(f"study {spec.name} was stopped; {RESUMED}")
    if status != "SUCCEEDED":
        raise ProxytuneError(f"the job of study {spec.name} ended as {status}")


@click.command()
@click.argument("study", required=False)
@address_option
@json_option
def status(study: str | None, address: str, as_json: bool) -> None:
    """Show the jobs of a cluster: the last job of every study, or all jobs of STUDY.

    For running jobs also the last line of output: progress, and the other studies of the cluster that the study
    waits for. The results of trials are in the study's storage: `proxytune show`.

    \b
    proxytune status --address http://head:8265
    proxytune status listops --address http://head:8265 --json
    """
    from proxytune.tuning.cluster.jobs import Jobs

    connected = Jobs(address)
    if study is not None:
        connected.known(study)
    jobs = [job for job in connected.jobs() if study in (None, job.study)]
    if study is None:
        jobs = list({job.study: job for job in jobs}.values())
    last_lines = {
        job.submission_id: connected.logs(job.study).strip().rpartition("\n")[2] for job in jobs if job.alive
    }
    if as_json:
        print_json([job.facts() | {"last_line": last_lines.get(job.submission_id)} for job in jobs])
        return
    table = Table("study", "job", "status", "since", "until", "last line", box=None)
    for job in jobs:
        times = (_moment(job.start_ms), _moment(job.end_ms))
        last_line = last_lines.get(job.submission_id, "")
        table.add_row(job.study, job.submission_id, job.status, *times, last_line)
    out.print(table)


@click.command()
@click.argument("study")
@address_option
@click.option("--follow", "-f", is_flag=True, help="Continue until the job ends; Ctrl-C leaves it running.")
def logs(study: str, address: str, follow: bool) -> None:
    """Print the output of the last job of STUDY.

    \b
    proxytune logs listops --address http://head:8265 -f
    """
    from proxytune.tuning.cluster.jobs import Jobs

    jobs = Jobs(address)
    if not follow:
        click.echo(jobs.logs(study), nl=False)
        return
    try:
        for text in jobs.follow(study):
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        sys.exit(0)


def _moment(milliseconds: int | None) -> str:
    if not milliseconds:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))
