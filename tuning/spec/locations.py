"""Where things lie: MLflow's store and artifacts, and object stores."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from proxytune.tuning.errors import InputError

if TYPE_CHECKING:  # imported where a URL is read: most studies name none, and it takes a third of a second
    from sqlalchemy.engine import URL


def default_uri(storage: Path) -> str:
    """The MLflow store of a study that names none: sqlite beside the studies, an absolute path."""
    return f"sqlite:///{storage.absolute() / 'mlflow.db'}"


def artifact_root(uri: str, storage: Path) -> str | None:
    """Where a new experiment keeps its artifacts; None leaves it to the server behind an HTTP address."""
    if uri.startswith(("http://", "https://")):
        return None
    if uri.startswith("sqlite:///"):
        return str(Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts")
    return str(storage.absolute() / "mlartifacts")


def check_uri(uri: str) -> str:
    """The URI itself, if MLflow can track there and it holds no password.

    Raises:
        InputError: a password in it (it would end in logs and process lists), or an unknown kind of store.
    """
    if holds_password(uri):
        raise InputError(
            f"tracking.uri {masked_url(uri)} holds a password; take it out and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD for a server, or PGPASSFILE for PostgreSQL"
        )
    kinds = ("http://", "https://", "sqlite:////", "postgresql://", "postgresql+psycopg://")
    if not uri.startswith(kinds):
        raise InputError(
            f"tracking.uri {uri} must start with http://, https://, postgresql+psycopg:// or sqlite:/// and an "
            "absolute path; null keeps an sqlite file beside the studies"
        )
    return uri.replace("postgresql://", "postgresql+psycopg://", 1)


_PLAIN = re.compile(r"[a-z0-9+]+://([^:/@?]*@)?[A-Za-z0-9.-]*(:[0-9]{1,5})?/[^?@]*")
"""URLs that have no place for a password; all others are left to SQLAlchemy, whose import takes a third of a second."""


def holds_password(url: str) -> bool:
    """Whether a URL has a password, before its host or among its parameters. What is no URL counts as having one."""
    if _PLAIN.fullmatch(url):
        return False
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        return "@" in url
    return parsed.password is not None or bool(_secrets(parsed))


def masked_url(url: str) -> str:
    """A URL for messages: without its parameters that hold secrets, and *** for who connects if that has a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    scheme, _, rest = url.partition("://")
    try:
        parsed = make_url(url)
        if parsed.password is not None:  # which may hold any of : / @
            parsed = make_url(f"{scheme}://***@{rest.rpartition('@')[2]}")
    except (ArgumentError, ValueError):
        return f"{scheme}://***" if rest else "***"
    shown = parsed.difference_update_query(_secrets(parsed)).render_as_string(hide_password=True)
    return shown.replace("%2A", "*")


def _secrets(url: "URL") -> list[str]:
    """The parameters that hold secrets, such as password, sslpassword, passwd."""
    return [name for name in url.query if re.search("passw|pwd|secret|token", name, re.IGNORECASE)]


_URL = re.compile(r"(s3|gs)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/(?!\.\.?(/|$))[A-Za-z0-9._=-]+)*")


def object_url(url: str) -> str:
    """The URL without a closing slash.

    Raises:
        ValueError: not of the form s3://bucket/prefix or gs://bucket/prefix; credentials do not belong into it.
    """
    if not _URL.fullmatch(url.rstrip("/")):
        raise ValueError(
            "must be s3://bucket/prefix or gs://bucket/prefix; credentials and endpoint come from the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        )
    return url.rstrip("/")
