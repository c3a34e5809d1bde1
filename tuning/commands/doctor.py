"""`doctor`: check a cluster for problems before a study runs."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from proxytune.tuning.commands.options import (
    complete_study_file,
    json_option,
    out,
    print_json,
    read_spec,
    set_option,
)
from proxytune.tuning.errors import ProxytuneError

if TYPE_CHECKING:
    from proxytune.tuning.spec.study_spec import StudySpec

COLOURS = {"ok": "green", "warning": "yellow", "red": "red"}


@click.command()
@click.argument("study", required=False, shell_complete=complete_study_file)
@set_option
@click.option("--storage", type=click.Path(path_type=Path), help="Overrides the study file.")
@click.option(
    "--address",
    default="local",
    show_default=True,
    help="local for this machine, auto or HOST:PORT on a node of a cluster, or the URL of its dashboard from elsewhere.",
)
@json_option
def doctor(
    study: str | None, assignments: tuple[str, ...], storage: Path | None, address: str, as_json: bool
) -> None:
    """Check a cluster for problems: versions, GPUs, clocks and access on every node.

    With STUDY, also its storage, data, database, MLflow and resources for its trials. Exit code 1 if any check is red.

    \b
    proxytune doctor --address auto
    proxytune doctor listops --storage /mnt/studies --address http://head:8265
    """
    spec = None if study is None else read_spec(study, assignments, storage, stored=True)
    findings = _on_head(spec, address) if address.startswith("http") else _from_here(spec, address)
    if as_json:
        print_json(findings)
    else:
        table = Table("node", "check", "state", "what", box=None)
        for finding in findings:
            state = finding["state"]
            table.add_row(finding["node"], finding["check"], Text(state, COLOURS[state]), finding["text"])
        out.print(table)
    red = [finding for finding in findings if finding["state"] == "red"]
    if red:
        raise ProxytuneError(f"{len(red)} of {len(findings)} checks are red; the first: {red[0]['text']}")


def _from_here(spec: "StudySpec | None", address: str) -> list[dict[str, str]]:
    from proxytune.tuning.cluster.preflight import examine

    return [finding.facts() for finding in examine(spec, address)]


def _on_head(spec: "StudySpec | None", address: str) -> list[dict[str, str]]:
    """Run the checks as a job on the cluster's head."""
    from proxytune.tuning.cluster.jobs import Jobs
    from proxytune.tuning.spec.yaml_file import as_yaml

    jobs = Jobs(address)
    with tempfile.TemporaryDirectory(prefix="proxytune-") as name:
        files = Path(name)
        arguments = ["doctor", "--address", "auto", "--json"]
        if spec is not None:
            (files / "study.yaml").write_text(as_yaml(spec.model_dump(mode="json")), encoding="utf-8")
            arguments.insert(1, "study.yaml")
        _, text = jobs.run(arguments, files)
    start = text.find("\n[\n")
    if start < 0:
        raise ProxytuneError(f"the doctor's job at {address} failed: {' '.join(text.split())[-300:]}")
    findings: list[dict[str, Any]]
    findings, _ = json.JSONDecoder().raw_decode(text, start + 1)
    return findings
