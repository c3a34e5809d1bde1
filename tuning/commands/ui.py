"""`ui`: open MLflow on the studies."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click

from proxytune.tuning.commands.options import out, storage_option
from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.yaml_file import nearest


@click.command()
@click.argument("study", required=False)
@storage_option
@click.option("--uri", help="MLflow's store; default: the sqlite file in the storage folder.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=5000, show_default=True)
@click.option("--print-command", is_flag=True, help="Print the command instead of running it.")
def ui(study: str | None, storage: Path, uri: str | None, host: str, port: int, print_command: bool) -> None:
    """Open MLflow on the leaderboard of STUDY; default: the study that ran last.

    On loopback, every user of this machine has access. For another --host, set MLflow's basic-auth configuration in
    MLFLOW_AUTH_CONFIG_PATH (https://mlflow.org/docs/latest/self-hosting/security/basic-http-auth); the extra
    proxytune[mlflow-server] installs its dependencies. Only requests to --host and loopback names are served.

    \b
    proxytune ui
    proxytune ui listops --storage /mnt/studies --port 5001
    MLFLOW_AUTH_CONFIG_PATH=auth.ini MLFLOW_FLASK_SERVER_SECRET_KEY=... proxytune ui --host mlflow.example
    """
    from proxytune.tuning.spec.locations import artifact_root, default_uri
    from proxytune.tuning.tracking.artifacts import follow_move
    from proxytune.tuning.tracking.links import leaderboards
    from proxytune.tuning.tracking.mlflow_server import in_url, server_command

    if uri is None and not (storage / "mlflow.db").exists():
        raise InputError(f"{storage.absolute()} has no mlflow.db; run a study there first, or set --uri")
    guarded = "MLFLOW_AUTH_CONFIG_PATH" in os.environ
    if not guarded and host not in ("127.0.0.1", "localhost", "::1"):
        raise InputError(
            f"--host {host} would allow everyone with network access to change the runs; set MLflow's basic-auth configuration "
            "in MLFLOW_AUTH_CONFIG_PATH, or use 127.0.0.1 and forward the port (ssh -L)"
        )
    uri = uri or default_uri(storage)
    pages = leaderboards(storage.absolute(), uri)
    if study is not None and study not in pages:
        raise InputError(f"MLflow at {uri} has no study {study}; {nearest(study, pages)}")
    command = server_command(uri, Path(artifact_root(uri, storage) or storage), host, port)
    command += ["--app-name", "basic-auth"] if guarded else []
    if print_command:
        out.print(shlex.join(command))
        return
    follow_move(uri)
    server = f"http://{in_url(host)}:{port}"
    shown = {study: pages[study]} if study is not None else pages
    out.print(f"MLflow on {server} (Ctrl-C to stop)")
    for name, path in shown.items():
        click.echo(f"{name}: {server}{path}")
    _open_when_ready(server, server + next(iter(shown.values()), ""))
    os.execvp(command[0], command)


def _open_when_ready(server: str, page: str) -> None:
    """In an interactive session with a display, open the page in a browser once the server responds."""
    has_screen = sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.stdout.isatty() and has_screen:
        module = "proxytune.tuning.tracking.open_page"
        subprocess.Popen([sys.executable, "-P", "-m", module, server, page], stdin=subprocess.DEVNULL)
