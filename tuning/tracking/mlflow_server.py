"""The command line of an MLflow server over a study's store."""

import sys
from pathlib import Path

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.locations import check_uri


def server_command(uri: str, artifacts: Path, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The command line of an MLflow server over the store, for this host's own visitors only.

    Other Host and Origin headers are refused (DNS rebinding, cross-site requests), no page may frame it but
    its own, and MLflow's job execution stays off (the command sets it by `env`).

    Raises:
        InputError: the URI is no store that a server can be put over, or holds a password.
    """
    uri = check_uri(uri)
    if uri.startswith("http"):
        raise InputError(f"{uri} is a server already: open it in a browser")
    names = sorted({f"{host}:{port}", f"localhost:{port}", f"127.0.0.1:{port}"})
    return [
        *("env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false", "MLFLOW_DISABLE_TELEMETRY=true"),
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", uri, "--artifacts-destination", str(artifacts)),
        *("--host", host, "--port", str(port), "--workers", "1"),
        *("--allowed-hosts", ",".join(names)),
        *("--cors-allowed-origins", ",".join(f"http://{name}" for name in names)),
    ]
