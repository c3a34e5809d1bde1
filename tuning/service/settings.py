"""What a server is told when it starts; requests change none of it."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from proxytune.tuning.service.auth import Tokens
from proxytune.tuning.spec.locations import check_uri, default_uri

REQUESTS_PER_MINUTE = 600
"""By one token (or one address, where there are no tokens); a request that changes or exports counts as ten."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One server's configuration.

    Raises:
        InputError: a tracking URI that cannot be used.
    """

    storage: Path  # absolute; the folder of all studies
    database: str | None = None  # Optuna's storage, if it is not a sqlite file a study
    tracking_uri: str | None = None  # MLflow; none: sqlite beside the studies
    checkpoints: str | None = None  # s3://... or gs://...; none: in the studies' folders
    address: str | None = None  # the cluster's dashboard; none: this server starts nothing
    roots: tuple[Path, ...] = ()  # absolute; what a study's task.root may lie under
    tokens: Tokens | None = None  # none: asked of nobody, which only loopback allows
    host: str = "127.0.0.1"
    requests_per_minute: int = REQUESTS_PER_MINUTE

    def __post_init__(self) -> None:
        check_uri(self.tracking_uri or default_uri(self.storage))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a bind address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
