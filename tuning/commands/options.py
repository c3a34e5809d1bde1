"""What the verbs share: options, consoles, completion, and how a study file becomes a spec."""

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

err = Console(stderr=True, soft_wrap=True, emoji=False)
out = Console(soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else 200)


def complete_study_file(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shipped studies, stored ones, and files."""
    names = [name for name in [*shipped_studies(), *_stored(ctx)] if name.startswith(incomplete)]
    return [*map(CompletionItem, dict.fromkeys(names)), CompletionItem(incomplete, type="file")]


def complete_study(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The studies of the storage."""
    return [name for name in _stored(ctx) if name.startswith(incomplete)]


def complete_assignment(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """The keys of a study file."""
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
                "--database: a password in the URL would show in the list of processes; use PGPASSFILE or PGPASSWORD"
            )
    return url


database_option = click.option(
    "--database",
    callback=_without_password,
    metavar="URL",
    help="Optuna's storage, if it is not the sqlite file in the study's folder.",
)
address_option = click.option(
    "--address",
    default="local",
    show_default=True,
    help="The Ray cluster: local starts one here; auto or HOST:PORT on a node of one that runs already.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, default=str))


def next_commands(commands: Mapping[str, str]) -> None:
    """Print what a user does next: each command with its purpose, on standard error."""
    width = max(map(len, commands))
    err.print("next:", highlight=False)
    for command, purpose in commands.items():
        err.print(f"  {command:{width}}  {purpose}", highlight=False, markup=False)


def storage_flags(storage: Path, database: str | None) -> str:
    """The flags by which another command finds a study's storage; none for the defaults."""
    default = storage.absolute() == Path("studies").absolute()
    return ("" if default else f" --storage {storage}") + (
        "" if database is None else f" --database {database}"
    )


def quiet_optuna() -> None:
    """Log no lines of Optuna's for each trial: the progress shows them."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


def read_spec(
    study: str, assignments: Iterable[str], storage: Path | None, *, stored: bool = False
) -> StudySpec:
    """The spec that STUDY, --set and --storage mean; with `stored` also a study of that name in the storage.

    Raises:
        InputError: everything that is wrong; what an override brought in is reported as that override.
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
        place = _overridden(moved, assignments)
        folder, database = Path(place.get("storage") or "studies"), place.get("database")
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
    """The spec of a study in its storage; None where there is none of that name."""
    from proxytune.tuning.store.table_study import read_study

    if database is None and not (storage / name / "study.db").exists():
        return None
    values: dict[str, Any] = read_study(name, storage, database).spec.model_dump(mode="json")
    return values


def _blamed(line: str, where: str, assignments: Iterable[str]) -> str:
    """A line of a SpecError, beginning with the override or else the file that it comes from."""
    key = line.partition(": ")[0]
    for assignment in assignments:
        path = assignment.partition("=")[0]
        if key == path or key.startswith((f"{path}.", f"{path}[")) or path.startswith(f"{key}."):
            return f"--set {assignment}: {line}"
    return f"{where}: {line}"


def with_study_file(*, stored: bool = False) -> Callable[[Callable[P, R]], Callable[..., R]]:
    """Give a verb its STUDY argument (file, shipped name, or with `stored` a study of the storage) and --set."""

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
