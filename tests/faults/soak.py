"""A study under a random schedule of faults: `soak.py [--seed N] [--minutes M] [--rounds R]`.

The seed alone determines the schedule: rounds of all kinds of faults, each round in a new order, with new pauses and
random choices for each injection. The drivers are the product's, forked from this process, with a loop instead of Ray,
so that a start takes a second; only faults of Ray's processes use Ray. `soak_check.py` checks the results. Requires
root, since the study is on a separate file system.
"""

import argparse
import faulthandler
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.append(str(Path(__file__).parents[2]))

from proxytune.tuning.cli import main
from proxytune.tuning.run import driver as product
from proxytune.tuning.service import app, server  # noqa: F401 - imported before the forks, so that children start fast
from proxytune.tuning.store import lease
from tests.faults.soak_check import problems
from tests.faults.soak_processes import MARK, children, is_shipper, marked
from tests.faults.soak_trial import SumTrainable, search_here
from tests.tuning.tracking.servers import MlflowServer, free_port

REPOSITORY = Path(__file__).parents[2]
STEPS, EVERY = 9, 3
LEASE_SECONDS = 3.0
STUDY = f"""
name: small
task: {{name: listops-mini, train_examples: 256}}
training: {{steps: {STEPS}, warmup_steps: 0, batch_size: 1, learning_rate: 1e-3, eval_every: {EVERY}}}
resources: {{max_failures: 100}}
search:
  space: {{model.dropout: {{low: 0.0, high: 0.4}}}}
  sampler: {{name: random}}
  stopping: {{name: none}}
  trials: 1000000
"""
ON_RAY = f"""
import functools, sys
sys.path.append({str(REPOSITORY)!r})
import proxytune.tuning.run.driver as driver
from tests.faults.soak_trial import SumTrainable
driver.run_study = functools.partial(driver.run_study, trainable=SumTrainable)
from proxytune.tuning.cli import main
main()
"""
EXIT_CODES = (0, 75, -signal.SIGTERM)
"""Of a driver that is stopped. It ends by the signal itself if its search has not started, or has ended."""


class Soak:
    """One study with its driver, its MLflow server, its service and its file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.disk = folder / "disk"
        self.study = self.disk / "studies" / "small"
        self.journal = self.study / "outbox" / "events.jsonl"
        self.temporary = folder / "t"
        for created in (self.disk, self.temporary):
            created.mkdir()
        os.environ |= {MARK: folder.name, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        tempfile.tempdir = str(self.temporary)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", self.disk], check=True)
        self.log = folder / "log"
        self.log.touch()
        self.mlflow_db = folder / "mlflow.db"
        self.mlflow = MlflowServer(f"sqlite:///{self.mlflow_db}", folder / "artifacts")
        self.mlflow.start()
        (self.disk / "small.yaml").write_text(STUDY + f"tracking: {{uri: '{self.mlflow.url}'}}\n")
        self.driver: int | None = None
        self.on_ray = False  # whether the driver uses Ray
        self._service: int | None = None
        self.codes: dict[int, int] = {}  # of children that have ended

    # Drivers.

    def fork(self, work: Callable[[], Any]) -> int:
        """Run the function in a forked child with its own session. Returns its process id."""
        pid = os.fork()
        if pid:
            self.codes.pop(pid, None)
            return pid
        code = 1
        try:
            os.setsid()
            os.chdir(self.disk)
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            faulthandler.register(signal.SIGUSR1)
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def code_of(self, pid: int, seconds: float = 0.0) -> int | None:
        """The exit code of a child, negative for a signal; None if it has not ended within the time."""
        deadline = time.monotonic() + seconds
        while pid not in self.codes:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= deadline:
                return None
            else:
                time.sleep(0.02)
        return self.codes[pid]

    def start(self, drain_seconds: float = 1.0) -> int:
        """Start `proxytune run` without Ray."""

        def drive() -> None:
            lease.LEASE_SECONDS, lease.RENEWAL_SECONDS = LEASE_SECONDS, 0.5
            product.DRAIN_SECONDS = drain_seconds
            product._search = search_here(product._graceful_stop)
            product.run_study = functools.partial(product.run_study, trainable=SumTrainable)
            sys.argv = ["proxytune", "run", "small.yaml", "--json"]
            main()

        return self.fork(drive)

    def start_on_ray(self) -> int:
        """Start `proxytune run` with Ray, and wait until a trial reports."""
        command = [sys.executable, "-P", "-c", ON_RAY, "run", "small.yaml", "--json"]
        while True:
            began = self.log.stat().st_size
            pid = self.fork(lambda: os.execv(sys.executable, command))
            try:
                for _ in range(5):  # the first events are those of the start
                    self.wait_for_progress(pid, seconds=300)
            except AssertionError:  # Ray gives its processes 30 s to start, too little on a busy machine
                if b"Ray did not start" not in self.log.read_bytes()[began:]:
                    raise
            else:
                return pid

    def service(self) -> str:
        """The address of a service over the studies, which is started if it is not running."""
        if self._service is None or self.code_of(self._service) is not None:
            self.service_port = free_port()

            def serve() -> None:
                port, storage = str(self.service_port), str(self.study.parent)
                sys.argv = ["proxytune", "serve", "--port", port, "--storage", storage]
                main()

            self._service = self.fork(serve)
        url = f"http://127.0.0.1:{self.service_port}"
        deadline = time.monotonic() + 120
        while True:
            try:
                httpx.get(f"{url}/health", timeout=10)
                return url
            except httpx.TransportError:
                assert time.monotonic() < deadline, self.log_tail()
                time.sleep(0.2)

    def kill_service(self) -> None:
        if self._service is not None:
            os.kill(self._service, signal.SIGKILL)
            self.code_of(self._service, 30)
            self._service = None

    def ensure_driver(self, on_ray: bool = False) -> int:
        """The process id of a driver that makes progress, with or without Ray; started if none is running."""
        alive = self.driver is not None and self.code_of(self.driver) is None
        if alive and self.on_ray != on_ray:
            self.end(signal.SIGTERM)
        if not alive or self.on_ray != on_ray:
            self.driver, self.on_ray = self.start_on_ray() if on_ray else self.start(), on_ray
        assert self.driver is not None
        self.wait_for_progress(self.driver)
        return self.driver

    def end(self, number: signal.Signals) -> None:
        """End the driver by a signal."""
        assert self.driver is not None
        os.kill(self.driver, number)
        code = self.code_of(self.driver, 120)
        assert code in EXIT_CODES, f"{code}: {self.log_tail()}"

    def wait_for_progress(self, pid: int, seconds: float = 180) -> None:
        """Wait until the journal has grown."""
        size, deadline = self.journal_size(), time.monotonic() + seconds
        while self.journal_size() <= size:
            code = self.code_of(pid)
            assert code is None, f"the driver exited with {code}: {self.log_tail()}"
            assert time.monotonic() < deadline, f"no progress: {self.log_tail()}"
            time.sleep(0.02)

    def journal_size(self) -> int:
        return self.journal.stat().st_size if self.journal.exists() else 0

    def kill(self) -> None:
        """Kill the driver and all shippers, also those of earlier drivers, at once, as a power failure does."""
        assert self.driver is not None
        os.kill(self.driver, signal.SIGSTOP)  # it starts no further process
        processes = children(self.driver) + list(filter(is_shipper, marked(self.folder.name)))
        os.kill(self.driver, signal.SIGKILL)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)
        self.code_of(self.driver, seconds=30)

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def assert_rejected(self, code: int, message: str) -> None:
        """Start a driver; it must exit with the code and an error that contains the message."""
        before = self.log.stat().st_size
        pid = self.start()
        ended = self.code_of(pid, seconds=120)
        if ended is None:  # write its stack to the log
            os.kill(pid, signal.SIGUSR1)
            time.sleep(1)
        output = self.log.read_bytes()[before:].decode(errors="replace")
        assert ended == code, f"exit code {ended}, not {code}: {output}"
        assert message in output, output

    # End and checks.

    def finish(self) -> tuple[list[str], dict[str, int]]:
        """Finish the study, stop MLflow, and return the problems found and the counts of what was checked."""
        from proxytune.tuning.store.steering import extend, num_started
        from proxytune.tuning.store.study import open_study

        self.ensure_driver()
        self.end(signal.SIGTERM)
        self.mlflow.wait()
        study = open_study("small", self.study.parent)
        extend(study, num_started(study) + 20)
        study.storage.engine.dispose()
        drained = self.start(drain_seconds=600.0)
        assert self.code_of(drained, seconds=900) == 0, self.log_tail()
        shown = subprocess.run(
            [sys.executable, "-P", "-m", "proxytune.tuning", "show", "small", "--json", "--storage", self.study.parent],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        self.mlflow.stop()
        self.kill_service()
        found, counts = problems(self.study, self.mlflow_db, STEPS, EVERY, self.temporary)
        winner = json.loads(shown.stdout)["winner"]["trial"]
        if winner != counts["best"]:
            found.append(f"winner: trial {winner} according to `show`, {counts['best']} according to SQL")
        found += [f"process left: {process}" for process in marked(self.folder.name)]
        if "Traceback" in self.log.read_text(errors="replace"):
            found.append(f"traceback in {self.log}")
        return found, counts

    def close(self) -> None:
        self.mlflow.stop()
        for process in marked(self.folder.name):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        subprocess.run(["umount", "--lazy", self.disk], check=False)


def schedule(seed: int, kinds: list[str]) -> Iterator[tuple[str, float, random.Random]]:
    """An infinite sequence of (kind, seconds before the injection, random generator of the injection)."""
    chance = random.Random(seed)
    while True:
        for kind in chance.sample(kinds, len(kinds)):
            yield kind, chance.uniform(0.1, 1.5), random.Random(chance.random())


def run(seed: int, minutes: float, rounds: int | None, only: list[str] | None = None) -> dict[str, Any]:
    """The counts of injections and checks, and `problems`, which is empty if every check passes."""
    from tests.faults.soak_faults import FAULTS, ON_RAY_KINDS

    kinds = [name for name in FAULTS if not only or name in only]
    counts = Counter(dict.fromkeys(kinds, 0))
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    soak = Soak(folder)
    print(f"seed {seed} in {folder}", flush=True)
    began_soak = time.monotonic()
    try:
        for kind, seconds, chance in schedule(seed, kinds):
            if time.monotonic() > began_soak + 60 * minutes or min(counts.values()) == rounds:
                break
            began = time.monotonic()
            soak.ensure_driver(on_ray=kind in ON_RAY_KINDS)
            time.sleep(seconds)
            counts[kind] += FAULTS[kind](soak, chance) is not False
            print(f"{sum(counts.values())} {kind} {time.monotonic() - began:.1f} s", flush=True)
        found, checked = soak.finish()
    except BaseException:
        print(
            f"seed {seed} failed at injection {sum(counts.values()) + 1} ({kind}); see {folder}",
            flush=True,
        )
        raise
    finally:
        soak.close()
    if not found:
        shutil.rmtree(folder)
    return {
        "seed": seed,
        "minutes": (time.monotonic() - began_soak) / 60,
        "date": time.strftime("%Y-%m-%d"),
        "load": os.getloadavg()[2],
        "injected": dict(counts),
        "checked": checked,
        "problems": found,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, help="stop after this number of injections of each kind")
    parser.add_argument("--only", nargs="*", help="inject only these kinds of faults")
    parser.add_argument("--record", type=Path, help="append the result to this file as a line of JSON")
    arguments = parser.parse_args()
    result = run(arguments.seed, arguments.minutes, arguments.rounds, arguments.only)
    print(json.dumps(result, indent=1))
    if arguments.record:
        with arguments.record.open("a") as file:
            file.write(json.dumps(result) + "\n")
    sys.exit(bool(result["problems"]))
