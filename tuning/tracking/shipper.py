"""Tracking as the driver sees it: where the events go, how many still wait, what stands in their way.

MLflow itself lives in a child process (`proxytune.tuning.tracking.shipping`): importing it takes seconds and 170 MB, each
of its calls holds the GIL, and the search must feel neither. The child reads the outbox, ships what its
destination has not acknowledged, and ends with its parent; it may be killed at any moment without loss.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from proxytune.tuning.spec.locations import check_uri
from proxytune.tuning.tracking.acknowledgement import Acknowledgement, count_events

RESTART_SECONDS = (1, 5, 30)  # how long a shipper that died is left alone: first, second, every further time
CHILD_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # the shipper retries by itself, for ever; MLflow's way blocks 4 minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
}


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
        self._delay_seconds = 0.0
        self._keeper = threading.Thread(target=self._keep, name="shipper", daemon=True)

    def start(self, delay_seconds: float = 0.0) -> None:
        """Start the child after so long, or when this is closed; returns at once."""
        self._delay_seconds = delay_seconds
        self._keeper.start()

    @property
    def waiting(self) -> int:
        """How many events MLflow has not acknowledged yet."""
        return count_events(self._folder, self._acknowledged.offset)

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
        self._closing.wait(self._delay_seconds)
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
