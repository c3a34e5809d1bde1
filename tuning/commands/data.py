"""`proxytune data`: the tasks' data on this machine."""

from pathlib import Path

import click

from proxytune.tuning.commands.options import err, json_option, out, print_json


@click.group()
def data() -> None:
    """Prepare the tasks' data on this machine."""


@data.command("prepare")
@click.argument("task")
@click.option(
    "--root", type=click.Path(path_type=Path), help="Folder or archive with the data; none: generated."
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the task, e.g. max_length=1000.",
)
@json_option
def data_prepare(task: str, root: Path | None, options: tuple[str, ...], as_json: bool) -> None:
    """Find or generate TASK's data and convert it once for all studies of this machine.

    \b
    proxytune data prepare listops
    proxytune data prepare text --root ~/data/aclImdb_v1.tar.gz --option max_length=4000
    """
    from proxytune.tuning.data import prepare_task
    from proxytune.tuning.progress import data_progress
    from proxytune.tuning.trial_spec import Task
    from proxytune.tuning.validation import validated
    from proxytune.tuning.yaml_file import override

    values = override({"name": task, "root": root}, options)
    with data_progress(err, task) as report:
        prepared = prepare_task(validated(Task, values, "data prepare"), report)
    facts = {
        "task": prepared.info.name,
        "folder": str(prepared.folder),
        "fingerprint": prepared.fingerprint,
        "examples": {"train": len(prepared.train), "validation": len(prepared.validation)},
        "vocab_size": prepared.info.vocab_size,
        "max_length": prepared.info.max_length,
        "num_classes": prepared.info.num_classes,
        "conventions": dict(prepared.info.conventions),
    }
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        out.print(f"{key}: {value}", highlight=False, markup=False)
