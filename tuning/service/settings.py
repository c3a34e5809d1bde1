"""Settings of a server, constant while it runs."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from proxytune.tuning.service.auth import Tokens
from proxytune.tuning.spec.locations import check_uri, default_uri

REQUESTS_PER_MINUTE = 600
"""Per token, or per address without tokens; a POST or an export counts as ten."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A server's settings.

    Raises:
        InputError: a tracking URI that cannot be used.
    """

    storage: Path  # absolute; the folder of all studies
    database: str | None = None  # Optuna's storage; None: a sqlite file per study
    tracking_uri: str | None = None  # MLflow; None: sqlite in the storage folder
    checkpoints: str | None = None  # s3://... or gs://...; None: in the studies' folders
    address: str | None = None  # the cluster's dashboard; None: studies cannot be started
    roots: tuple[Path, ...] = ()  # absolute; folders that a study's task.root must lie under
    tokens: Tokens | None = None  # None: not required, only on loopback
    host: str = "127.0.0.1"
    requests_per_minute: int = REQUESTS_PER_MINUTE

    def __post_init__(self) -> None:
        check_uri(self.tracking_uri or default_uri(self.storage))

    @property
    def loopback(self) -> bool:
        """Whether the server is reachable only from this machine."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a bind address is reachable only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
