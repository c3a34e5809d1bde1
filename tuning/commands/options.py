"""Shared by the verbs: options, consoles, completion, and parsing of study files."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
from click.shell_completion import CompletionItem
from rich.console import Console

from proxytune.tuning.errors import InputError
from proxytune.tuning.studies import shipped_studies

if TYPE_CHECKING:
    from proxytune.tuning.spec.study_spec import StudySpec

P = ParamSpec("P")
R = TypeVar("R")

# markup: texts with brackets, such as an error of PyTorch, are printed as they are
_PLAIN: Mapping[str, Any] = {"soft_wrap": True, "emoji": False, "markup": False, "highlight": False}
err = Console(stderr=True, **_PLAIN)
out = Console(**_PLAIN, width=None if sys.stdout.isatty() else 200)


def complete_study_file(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete shipped studies, stored studies and files."""
    names = [name for name in [*shipped_studies(), *_stored(ctx)] if name.startswith(incomplete)]
    return [*map(CompletionItem, dict.fromkeys(names)), CompletionItem(incomplete, type="file")]


def complete_study(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete the studies of the storage."""
    return [name for name in _stored(ctx) if name.startswith(incomplete)]


def complete_assignment(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Complete the keys of a study file."""
    from proxytune.tuning.spec.schema import study_keys

    return [f"{key}=" for key in study_keys() if key.startswith(incomplete)]


def _stored(ctx: click.Context) -> list[str]:
    storage = Path(ctx.params.get("storage") or "studies")
    return sorted(path.parent.name for path in storage.glob("*/study.db"))


study_argument = click.argument("study", shell_complete=complete_study)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_assignment,
    help="Override a key of the study file, e.g. --set training.steps=500. May be repeated.",
)
storage_option = click.option(
    "--storage",
    type=click.Path(path_type=Path),
    default=Path("studies"),
    show_default=True,
    help="The folder that holds all studies.",
)


def _without_password(_context: click.Context, _parameter: click.Parameter, url: str | None) -> str | None:
    if url is not None:
        from proxytune.tuning.spec.locations import holds_password

        if holds_password(url):
            raise InputError(
                "--database: a password in the URL would be visible in the process list; use PGPASSFILE or PGPASSWORD"
            )
    return url


database_option = click.option(
    "--database",
    callback=_without_password,
    metavar="URL",
    help="Optuna's storage; default: the sqlite file in the study's folder.",
)
address_option = click.option(
    "--address",
    default="local",
    show_default=True,
    help="Ray cluster: local starts a new one; auto or HOST:PORT connects from a node of a running cluster.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    click.echo(json.dumps(value, indent=2, default=str))


def next_commands(commands: Mapping[str, str]) -> None:
    """Print suggested next commands with their purpose to standard error."""
    width = max(map(len, commands))
    err.print("next:")
    for command, purpose in commands.items():
        err.print(f"  {command:{width}}  {purpose}")


def storage_flags(storage: Path, database: str | None) -> str:
    """The flags that select a study's storage in another command; empty for the defaults."""
    default = storage.absolute() == Path("studies").absolute()
    return ("" if default else f" --storage {storage}") + (
        "" if database is None else f" --database {database}"
    )


def quiet_optuna() -> None:
    """Disable Optuna's log line per trial: the progress shows trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


def read_spec(
    study: str, assignments: Iterable[str], storage: Path | None, *, stored: bool = False
) -> StudySpec:
    """Resolve STUDY, --set and --storage to a spec; with `stored`, STUDY may be a study in the storage.

    Raises:
        InputError: all errors of the spec; errors of an override name the override.
    """
    from proxytune.tuning.spec.study_files import find_study_file, unknown_study
    from proxytune.tuning.spec.study_spec import parse_study
    from proxytune.tuning.spec.validation import SpecError
    from proxytune.tuning.spec.yaml_file import read_yaml

    assignments = tuple(assignments)
    moved = {} if storage is None else {"storage": str(storage)}
    path = find_study_file(study)
    where = str(path or f"study {study}")
    if path is not None:
        values = read_yaml(path) | moved
    else:
        location = _overridden(moved, assignments)
        folder, database = Path(location.get("storage") or "studies"), location.get("database")
        found = _stored_values(study, folder, database) if stored else None
        if found is None:
            raise unknown_study(study, database or str(folder.absolute()) if stored else None)
        values = found
    try:
        return parse_study(_overridden(values, assignments), where=None)
    except SpecError as error:
        lines = [_blamed(line, where, assignments) for line in error.lines]
        raise InputError("\n".join(lines)) from None


def _overridden(values: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    from proxytune.tuning.spec.yaml_file import override

    try:
        return override(dict(values), assignments)
    except InputError as error:
        raise InputError(f"--set {error}") from None


def _stored_values(name: str, storage: Path, database: str | None) -> dict[str, Any] | None:
    """The stored spec of a study; None if there is no study of that name."""
    from proxytune.tuning.store.table_study import read_study

    if database is None and not (storage / name / "study.db").exists():
        return None
    values: dict[str, Any] = read_study(name, storage, database).spec.model_dump(mode="json")
    return values


def _blamed(line: str, where: str, assignments: Iterable[str]) -> str:
    """Prefix a line of a SpecError with the override or the file that caused it."""
    key = line.partition(": ")[0]
    for assignment in assignments:
        path = assignment.partition("=")[0]
        if key == path or key.startswith((f"{path}.", f"{path}[")) or path.startswith(f"{key}."):
            return f"--set {assignment}: {line}"
    return f"{where}: {line}"


def with_study_file(*, stored: bool = False) -> Callable[[Callable[P, R]], Callable[..., R]]:
    """Add STUDY (file, shipped name, or with `stored` a study of the storage), --set and --storage to a verb."""

    def decorate(command: Callable[P, R]) -> Callable[..., R]:
        @click.argument("study", shell_complete=complete_study_file)
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
            spec = read_spec(study, assignments, storage, stored=stored)
            return command(*args, spec=spec, **rest)  # type: ignore[arg-type]

        return resolved

    return decorate
