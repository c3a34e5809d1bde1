"""Locations: MLflow's store and artifacts, database URLs, object stores."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from proxytune.tuning.errors import InputError

if (
    TYPE_CHECKING
):  # imported where a URL is parsed: most studies have no URL, and the import takes a third of a second
    from sqlalchemy.engine import URL


def default_uri(storage: Path) -> str:
    """The default MLflow store: an sqlite file beside the studies, as an absolute path."""
    return f"sqlite:///{storage.absolute() / 'mlflow.db'}"


def artifact_root(uri: str, storage: Path) -> str | None:
    """Artifact location of a new experiment; None: the MLflow server at an HTTP address decides."""
    if uri.startswith(("http://", "https://")):
        return None
    if uri.startswith("sqlite:///"):
        return str(Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts")
    return str(storage.absolute() / "mlartifacts")


def check_uri(uri: str) -> str:
    """Validate a tracking URI and return it with the driver that MLflow needs for PostgreSQL.

    Raises:
        InputError: the URI holds a password (it would appear in logs and process lists), or names an unknown kind of
            store.
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
"""URLs that cannot hold a password. All others are parsed by SQLAlchemy, whose import takes a third of a second."""


def holds_password(url: str) -> bool:
    """Whether a URL has a password, before its host or among its parameters; True for an invalid URL that contains @."""
    if _PLAIN.fullmatch(url):
        return False
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is not a number
        return "@" in url
    return parsed.password is not None or bool(_secrets(parsed))


def masked_url(url: str) -> str:
    """A URL for messages: without secret parameters, and with *** for user and password if there is a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    scheme, _, rest = url.partition("://")
    try:
        parsed = make_url(url)
        if parsed.password is not None:  # it may contain : / @
            parsed = make_url(f"{scheme}://***@{rest.rpartition('@')[2]}")
    except (ArgumentError, ValueError):
        return f"{scheme}://***" if rest else "***"
    shown = parsed.difference_update_query(_secrets(parsed)).render_as_string(hide_password=True)
    return shown.replace("%2A", "*")


def _secrets(url: "URL") -> list[str]:
    """Names of the parameters that hold secrets, such as password, sslpassword, passwd."""
    return [name for name in url.query if re.search("passw|pwd|secret|token", name, re.IGNORECASE)]


_URL = re.compile(r"(s3|gs)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/(?!\.\.?(/|$))[A-Za-z0-9._=-]+)*")


def object_url(url: str) -> str:
    """The URL without a trailing slash.

    Raises:
        ValueError: not of the form s3://bucket/prefix or gs://bucket/prefix. Credentials are not allowed in it.
    """
    if not _URL.fullmatch(url.rstrip("/")):
        raise ValueError(
            "must be s3://bucket/prefix or gs://bucket/prefix; credentials and endpoint come from the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
        )
    return url.rstrip("/")
