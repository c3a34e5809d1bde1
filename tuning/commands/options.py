"""What the verbs share: options, consoles, and how a study file becomes a spec."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click
from rich.console import Console

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
        from proxytune.tuning.spec.study_files import read_study

        spec = read_study(
            study, (*assignments, *([f"storage={json.dumps(str(storage))}"] if storage else []))
        )
        return command(*args, spec=spec, **rest)  # type: ignore[arg-type]

    return resolved
