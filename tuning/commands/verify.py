"""`verify`: check that an export folder is unchanged."""

from pathlib import Path

import click

from proxytune.tuning.commands.options import err, json_option, out, print_json
from proxytune.tuning.errors import ProxytuneError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def verify(folder: Path, as_json: bool) -> None:
    """Check that the files in FOLDER are unchanged, and that its rule chooses the same trial again.

    Prints each changed file and each field that contradicts another field; the exit code is then 1.

    \b
    proxytune verify winner
    """
    from proxytune.tuning.export.verify import verify_export

    with err.status("verifying"):
        problems = verify_export(folder)
    if as_json:
        print_json({"folder": str(folder), "intact": not problems, "problems": problems})
    else:
        for line in problems:
            out.print(line)
    if problems:
        raise ProxytuneError(f"{folder} has changed since the export: {len(problems)} problems")
    if not as_json:
        out.print(f"{folder} is unchanged since the export, and its rule chooses its trial again")
