"""The driver's side of tracking: starts the shipping process and reports pending events and errors.

MLflow runs in a child process (`proxytune.tuning.tracking.shipping`): its import takes seconds and 170 MB, and each of
its calls holds the GIL. Neither may slow the search. The child reads the outbox, ships the events that its destination
has not acknowledged, and ends with its parent. It may be killed at any time without loss.
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from proxytune.tuning.spec.locations import check_uri
from proxytune.tuning.tracking.acknowledgement import Acknowledgement, count_events

RESTART_SECONDS = (1, 5, 30)  # delay before a dead shipper is restarted: first, second, every further time
CHILD_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # the shipper retries without limit; MLflow's own retries block for 4 minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
}


class Shipper:
    """Ships a study's outbox to one MLflow experiment, in a child process that runs as long as the driver.

    Raises:
        InputError: MLflow does not support the URI, or the URI holds a password.
    """

    def __init__(self, outbox_folder: Path, uri: str, experiment: str) -> None:
        self._folder = outbox_folder
        self._acknowledged = Acknowledgement.load(outbox_folder, check_uri(uri), experiment)
        self._closing = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._delay_seconds = 0.0
        self._keeper = threading.Thread(target=self._keep, name="shipper", daemon=True)

    def start(self, delay_seconds: float = 0.0) -> None:
        """Start the child after a delay, or earlier when this is closed. Returns immediately."""
        self._delay_seconds = delay_seconds
        self._keeper.start()

    @property
    def waiting(self) -> int:
        """Number of events that MLflow has not acknowledged yet."""
        return count_events(self._folder, self._acknowledged.offset)

    @property
    def error(self) -> str | None:
        """The current shipping error in one line; None if there is none."""
        return self._acknowledged.error

    def close(self, timeout_seconds: float) -> int:
        """Ship pending events within the timeout, end the child, and return the number of events still pending."""
        self._closing.set()
        if self._process is not None:
            self._let_finish(self._process)
        self._keeper.join(timeout_seconds)
        if self._keeper.is_alive() and self._process is not None:
            self._process.kill()
            self._keeper.join()
        return self.waiting

    def _keep(self) -> None:
        """Run the child, read its reports, and restart it if it dies."""
        deaths = 0
        self._closing.wait(self._delay_seconds)
        while True:
            last_line = self._run_child()
            if self._closing.is_set():
                return
            self._acknowledged.error = (
                f"the shipping process died ({last_line}); it is restarted automatically"
            )
            self._closing.wait(RESTART_SECONDS[min(deaths, len(RESTART_SECONDS) - 1)])
            deaths += 1

    def _run_child(self) -> str:
        destination = (str(self._folder), self._acknowledged.uri, self._acknowledged.experiment)
        last_line = ""
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "proxytune.tuning.tracking.shipping", *destination],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=CHILD_ENVIRONMENT | os.environ,
            start_new_session=True,  # Ctrl-C must reach only the driver, which closes its shipper
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
                    last_line = line.strip() or last_line
        return f"exit code {process.returncode}: {last_line}"

    @staticmethod
    def _let_finish(process: "subprocess.Popen[str]") -> None:
        """Close the child's standard input, which makes it ship pending events and exit."""
        assert process.stdin is not None
        process.stdin.close()
