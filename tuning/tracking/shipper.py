"""Tracking as the driver sees it: where the events go, how many still wait, what stands in their way.

MLflow itself lives in a child process (`proxytune.tuning.tracking.shipping`): importing it takes seconds and 170 MB, each
of its calls holds the GIL, and the search must feel neither. The child reads the outbox, ships what its
destination has not acknowledged, and ends with its parent; it may be killed at any moment without loss.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from proxytune.tuning.errors import InputError
from proxytune.tuning.tracking.outbox import JOURNAL, journal_id

RESTART_SECONDS = (1, 5, 30)  # how long a shipper that died is left alone: first, second, every further time
CHILD_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # the shipper retries by itself, for ever; MLflow's way blocks 4 minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
}


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
    masked = re.sub(r"//([^/@:?]*):.*@", r"//\1:***@", uri)  # greedy: a password may hold @ and /
    masked = re.sub(r"([?&](?:ssl)?password=)[^&]*", r"\1***", masked)
    if masked != uri:
        raise InputError(
            f"tracking.uri {masked} holds a password; take it out and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD for a server, or PGPASSFILE for PostgreSQL"
        )
    kinds = ("http://", "https://", "sqlite:////", "postgresql://", "postgresql+psycopg://")
    if not uri.startswith(kinds):
        raise InputError(
            f"tracking.uri {uri} must start with http://, https://, postgresql+psycopg:// or sqlite:/// and an "
            "absolute path; null keeps an sqlite file beside the studies"
        )
    return uri.replace("postgresql://", "postgresql+psycopg://", 1)


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


@dataclass
class Acknowledgement:
    """What one destination has of a journal: written whole, after each success, beside the journal."""

    uri: str
    experiment: str
    offset: int = 0  # bytes of the journal that are shipped for good
    parent_run: str | None = None
    trials: dict[str, str] = field(default_factory=dict)  # runs of the trials without a final end
    creating: list[str] = field(default_factory=list)  # runs that MLflow may have made without our knowing
    doubt_ms: int | None = None  # when a creation's answer was lost, and MLflow may still carry it out
    study: dict[str, Any] = field(
        default_factory=dict
    )  # the journal's id and what the newest study event says
    tally: dict[str, Any] = field(default_factory=dict)  # the study's counters up to the offset
    error: str | None = None

    @classmethod
    def load(cls, outbox_folder: Path, uri: str, experiment: str) -> "Acknowledgement":
        """The destination's acknowledgement; a fresh one where nothing of this journal was shipped yet."""
        empty = cls(uri, experiment)
        try:
            known = cls(**json.loads(empty.path(outbox_folder).read_text()))
        except FileNotFoundError:
            return empty
        return known if known.study.get("id") in (None, journal_id(outbox_folder)) else empty

    def path(self, outbox_folder: Path) -> Path:
        digest = hashlib.sha256(f"{self.uri}\n{self.experiment}".encode()).hexdigest()[:12]
        return outbox_folder / f"acknowledged-{digest}.json"

    def save(self, outbox_folder: Path) -> None:
        """Replace the file in one step.

        Raises:
            OSError: the folder cannot be written.
        """
        path = self.path(outbox_folder)
        with tempfile.NamedTemporaryFile("w", dir=outbox_folder, prefix=path.name, delete=False) as temporary:
            json.dump(asdict(self), temporary, separators=(",", ":"))
        os.replace(temporary.name, path)


def num_waiting(outbox_folder: Path, uri: str, experiment: str) -> int:
    """How many events of the journal the destination has not acknowledged."""
    return _count_events(
        outbox_folder, Acknowledgement.load(outbox_folder, check_uri(uri), experiment).offset
    )


def last_error(outbox_folder: Path, uri: str, experiment: str) -> str | None:
    """What stood between the events and the destination when they were last shipped; None if nothing did."""
    return Acknowledgement.load(outbox_folder, check_uri(uri), experiment).error


def _count_events(outbox_folder: Path, offset: int) -> int:
    try:
        journal = (outbox_folder / JOURNAL).open("rb")
    except FileNotFoundError:
        return 0
    with journal:
        journal.seek(offset)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: journal.read(1 << 20), b""))


class Shipper:
    """Ships a study's outbox to one MLflow experiment in a child process, for as long as the driver lives.

    Raises:
        InputError: a URI that MLflow cannot track to, or one that holds a password.
    """

    def __init__(self, outbox_folder: Path, uri: str, experiment: str) -> None:
        self._folder = outbox_folder
        self._acknowledged = Acknowledgement.load(outbox_folder, check_uri(uri), experiment)
        self._closing = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._keeper = threading.Thread(target=self._keep, name="shipper", daemon=True)

    def start(self) -> None:
        """Start the child; returns at once."""
        self._keeper.start()

    @property
    def waiting(self) -> int:
        """How many events MLflow has not acknowledged yet."""
        return _count_events(self._folder, self._acknowledged.offset)

    @property
    def error(self) -> str | None:
        """What stands between the events and MLflow, in one line; None while nothing does."""
        return self._acknowledged.error

    def close(self, timeout_seconds: float) -> int:
        """Ship what waits, for at most so long, end the child, and say how many events still wait."""
        self._closing.set()
        if self._process is not None:
            self._let_finish(self._process)
        self._keeper.join(timeout_seconds)
        if self._keeper.is_alive() and self._process is not None:
            self._process.kill()
            self._keeper.join()
        return self.waiting

    def _keep(self) -> None:
        """Run the child, hear its reports, and start it again should it die."""
        deaths = 0
        while True:
            last_words = self._run_child()
            if self._closing.is_set():
                return
            self._acknowledged.error = f"the shipping process died ({last_words}); it starts again by itself"
            self._closing.wait(RESTART_SECONDS[min(deaths, len(RESTART_SECONDS) - 1)])
            deaths += 1

    def _run_child(self) -> str:
        destination = (str(self._folder), self._acknowledged.uri, self._acknowledged.experiment)
        last_words = ""
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "proxytune.tuning.tracking.shipping", *destination],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=CHILD_ENVIRONMENT | os.environ,
            start_new_session=True,  # Ctrl-C is for the driver, which closes its shipper in order
        ) as process:
            self._process = process
            if self._closing.is_set():
                self._let_finish(process)
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    report = json.loads(line)
                    self._acknowledged.offset, self._acknowledged.error = report["offset"], report["error"]
                else:
                    last_words = line.strip() or last_words
        return f"exit code {process.returncode}: {last_words}"

    @staticmethod
    def _let_finish(process: "subprocess.Popen[str]") -> None:
        """The end of its standard input is the child's word to ship what waits and leave."""
        assert process.stdin is not None
        process.stdin.close()
