"""`serve`: the studies over HTTP."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from proxytune.tuning.commands.options import database_option, err, out, print_json, storage_option
from proxytune.tuning.errors import InputError, StorageError

if TYPE_CHECKING:
    from proxytune.tuning.service.auth import Tokens


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; other than loopback requires a token.",
)
@click.option("--port", default=8642, show_default=True)
@storage_option
@database_option
@click.option(
    "--tracking-uri", metavar="URI", help="MLflow of the studies; default: sqlite in the storage folder."
)
@click.option(
    "--checkpoints",
    metavar="URL",
    help="Object store of the studies, s3://BUCKET/PREFIX; default: their folders.",
)
@click.option(
    "--address",
    metavar="http://HEAD:8265",
    help="Ray cluster that runs the studies; without it, no study can be started.",
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder or archive that may contain a study's task.root. May be repeated.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="Lines name:token or name:SCOPE:token (metrics, read, steer, submit); read again when it changes. "
    "$PROXYTUNE_TOKEN adds a token.",
)
@click.option(
    "--requests-per-minute",
    type=click.IntRange(min=20),
    default=600,
    show_default=True,
    help="Limit per token; a POST or an export counts as ten.",
)
@click.option("--print-openapi", is_flag=True, help="Print the OpenAPI document instead of serving.")
def serve(
    host: str,
    port: int,
    storage: Path,
    database: str | None,
    tracking_uri: str | None,
    checkpoints: str | None,
    address: str | None,
    roots: tuple[Path, ...],
    token_file: Path | None,
    requests_per_minute: int,
    print_openapi: bool,
) -> None:
    """Serve studies over HTTP: submit, watch, steer, fetch the winner. Studies run on a Ray cluster, not in this process.

    \b
    proxytune serve --storage /mnt/studies --address http://head:8265
    proxytune serve --host 0.0.0.0 --token-file tokens --storage /mnt/studies --address http://head:8265
    curl localhost:8642/v1/studies
    """
    try:
        from proxytune.tuning.service.app import make_app
        from proxytune.tuning.service.server import bind
        from proxytune.tuning.service.server import serve as run
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed; pip install 'proxytune[serve]'") from None
    from proxytune.tuning.service.settings import Settings, is_loopback

    tokens = _tokens(token_file)
    if not is_loopback(host) and not tokens and not print_openapi:
        raise InputError(
            f"--host {host} is reachable from other machines: set a token with --token-file or "
            "$PROXYTUNE_TOKEN, or bind to 127.0.0.1"
        )
    settings = Settings(
        storage=storage.absolute(),
        database=database,
        tracking_uri=tracking_uri,
        checkpoints=checkpoints,
        address=address,
        roots=tuple(root.expanduser().absolute() for root in roots),
        tokens=tokens,
        host=host,
        requests_per_minute=requests_per_minute,
    )
    if print_openapi:
        print_json(make_app(settings).openapi())
        return
    try:
        settings.storage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"--storage {storage}: {error.strerror}") from None
    listener = bind(host, port)
    host, bound = listener.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    out.print(f"proxytune on http://{host}:{bound} (Ctrl-C to stop)")
    run(settings, listener)


def _tokens(path: Path | None) -> "Tokens":
    """Read the tokens; warnings about their file are printed."""
    from proxytune.tuning.service.auth import Tokens

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokens = Tokens(path)
    for warning in caught:
        err.print(str(warning.message), style="yellow")
    return tokens
