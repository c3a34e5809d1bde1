"""`init` and `schema`: write a study file, and its JSON schema."""

from pathlib import Path

import click

from proxytune.tuning.commands.options import next_commands, out
from proxytune.tuning.errors import InputError, StorageError


@click.command()
@click.argument("task", default="listops-mini")
def init(task: str) -> None:
    """Write a commented study file for TASK, my-TASK.yaml, to the current folder. The default is listops-mini.

    \b
    proxytune init
    proxytune init listops
    """
    from proxytune.tuning.spec.protocol import PROTOCOLS
    from proxytune.tuning.spec.template import study_template
    from proxytune.tuning.spec.yaml_file import nearest

    if task not in PROTOCOLS:
        raise InputError(f"unknown task {task}; {nearest(task, PROTOCOLS)}")
    path = Path(f"my-{task}.yaml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(study_template(task, path.stem, path.name))
    except FileExistsError:
        raise InputError(f"{path} exists; edit it, or move it first") from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from None
    out.print(f"wrote {path}")
    next_commands(
        {f"proxytune check {path}": "what would run", f"proxytune run {path}": "start or resume it"}
    )


@click.command()
def schema() -> None:
    """Print the JSON schema of the study file, for editors.

    An editor with a YAML language server completes keys and marks mistakes in a file whose first line is
    `# yaml-language-server: $schema=study.schema.json`.

    \b
    proxytune schema > study.schema.json
    """
    from proxytune.tuning.spec.schema import schema_text

    click.echo(schema_text(), nl=False)
