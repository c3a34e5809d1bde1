"""`proxytune ui`: MLflow on the studies."""

import os
import shlex
from pathlib import Path

import click

from proxytune.tuning.commands.options import out, storage_option
from proxytune.tuning.errors import InputError


@click.command()
@storage_option
@click.option("--uri", help="MLflow's store, if it is not the sqlite file beside the studies.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=5000, show_default=True)
@click.option("--print-command", is_flag=True, help="Print the command instead of running it.")
def ui(storage: Path, uri: str | None, host: str, port: int, print_command: bool) -> None:
    """Open MLflow on the studies' experiments.

    \b
    proxytune ui
    proxytune ui --storage /mnt/studies --port 5001
    """
    from proxytune.tuning.tracking.shipper import artifact_root, default_uri, server_command

    if uri is None and not (storage / "mlflow.db").exists():
        raise InputError(
            f"{storage.absolute()} holds no mlflow.db; run a study there first, or name it with --uri"
        )
    uri = uri or default_uri(storage)
    command = server_command(uri, Path(artifact_root(uri, storage) or storage), host, port)
    if print_command:
        out.print(shlex.join(command), highlight=False)
        return
    out.print(f"MLflow on http://{host}:{port} (Ctrl-C ends it)", highlight=False)
    os.execvp(command[0], command)
