"""The command line of an MLflow server for a study's store."""

import sys
from pathlib import Path

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.locations import check_uri


def server_command(uri: str, artifacts: Path, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The command line of an MLflow server for the store, restricted to the given host and localhost.

    Other Host and Origin headers are refused (DNS rebinding, cross-site requests), other sites cannot embed its pages,
    and MLflow's job execution is off (set by `env` in the command).

    Raises:
        InputError: the URI is not a store that a server can open, or holds a password.
    """
    uri = check_uri(uri)
    if uri.startswith("http"):
        raise InputError(f"{uri} is already a server: open it in a browser")
    names = sorted({f"{in_url(host)}:{port}", f"localhost:{port}", f"127.0.0.1:{port}"})
    return [
        *("env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true"),
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", uri, "--artifacts-destination", str(artifacts)),
        *("--host", host, "--port", str(port), "--workers", "1"),
        *("--allowed-hosts", ",".join(names)),
        *("--cors-allowed-origins", ",".join(f"http://{name}" for name in names)),
    ]


def in_url(host: str) -> str:
    """The host as in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
