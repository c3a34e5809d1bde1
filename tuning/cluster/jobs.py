"""Submits, follows and stops studies as jobs of a Ray cluster, through the HTTP address of its dashboard.

A job runs `proxytune run STUDY --address auto` on the head node, which starts or resumes the study. It contains this
package and the resolved study file, never the working directory. At most one job of a study is alive; it is addressed by
the study's name.
"""

import asyncio
import importlib.metadata
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from proxytune.tuning.cluster.package import package_folders
from proxytune.tuning.cluster.private import LOOK, check_answer
from proxytune.tuning.errors import InputError, ProxytuneError, one_line
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.yaml_file import as_yaml

STOP_SECONDS = 120
"""Time from SIGTERM to SIGKILL of a stopped job (Ray's default is 3 s): to write checkpoints and ship to MLflow."""
CONNECT_SECONDS = 5.0
_STUDY, _ATTEMPT = "proxytune_study", "proxytune_attempt"  # a job's metadata
_ALIVE = ("PENDING", "RUNNING")


@dataclass(frozen=True)
class Job:
    """One submission of a study; status is PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""

    submission_id: str
    study: str
    attempt: int
    status: str
    message: str
    start_ms: int | None
    end_ms: int | None

    @property
    def alive(self) -> bool:
        return self.status in _ALIVE

    def facts(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


class Jobs:
    """The jobs of studies on one cluster.

    The token is the argument, else RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. It is sent only to
    a cluster that requires a token. A cluster without token authentication is refused: anyone could run code there.
    `ray_version` is the version of Ray on the cluster.

    Raises:
        InputError: the address does not respond or is not a Ray dashboard, the cluster has no authentication, the token
            is missing or wrong, or the cluster has another version of Ray.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        import ray
        import requests
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        if not address.startswith(("http://", "https://")):
            raise InputError(
                f"address {address}: jobs go to the dashboard of the cluster's head, http://HEAD:8265"
            )
        for name in (
            "dashboard.modules.dashboard_sdk",
            "dashboard.modules.job.sdk",
            "_private.runtime_env.packaging",
        ):
            logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
        self.address = address.rstrip("/")
        self._folder_is_private = False  # whether the head's session folder is known to be private
        mode = self._authentication_mode()
        if mode != "token":
            raise InputError(
                f"the cluster at {self.address} lets anyone run code ({mode}): start it with RAY_AUTH_MODE=token"
            )
        token = token or user_token()
        if token is None:
            raise InputError(
                f"the cluster at {self.address} requires a token: set RAY_AUTH_TOKEN_PATH to the file that contains it"
            )
        try:
            with _explicit_address():
                self._client = JobSubmissionClient(self.address, headers={"Authorization": f"Bearer {token}"})
            answer = requests.get(
                f"{self.address}/api/version",
                headers={"Authorization": f"Bearer {token}"},
                timeout=CONNECT_SECONDS,
            )
        except AuthenticationError:
            raise InputError(
                f"the cluster at {self.address} rejected the token: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH must hold "
                "the token that the cluster was started with"
            ) from None
        except (requests.RequestException, ConnectionError, RuntimeError) as error:
            raise InputError(f"{self.address}: {one_line(error)}") from None
        self.ray_version = theirs = str(answer.json()["ray_version"])
        if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise InputError(
                f"the cluster at {self.address} has Ray {theirs}, this machine {ray.__version__}: install the same version"
            )

    def submit(self, spec: StudySpec) -> str:
        """Start or resume the study as a job and return its submission id, or the id of the job that is already alive.

        Raises:
            InputError: the study's storage path is relative, or other users can replace the code that the head runs.
        """
        if not spec.storage.is_absolute():
            raise InputError(
                f"storage: {spec.storage} is relative to this folder; a job needs an absolute path that every node "
                "shares, such as storage: /mnt/studies"
            )
        return self._once(spec.name, ["run", "study.yaml"], spec)

    def confirm(self, spec: StudySpec, *, top: int, seeds: int, trials: Sequence[int] = ()) -> str:
        """Confirm the study's winner as a job (`proxytune confirm`) and return its id, or that of the job already alive.

        `status`, `logs` and `stop` address it as `<study>.confirm`.
        """
        where = ["--storage", str(spec.storage), *(["--database", spec.database] if spec.database else [])]
        arguments = ["confirm", spec.name, *where, "--top", str(top), "--seeds", str(seeds)]
        arguments += [f"--trial={number}" for number in trials]
        return self._once(f"{spec.name}.confirm", arguments, spec)

    def _once(self, name: str, arguments: Sequence[str], spec: StudySpec) -> str:
        """Start a job of this name unless one is alive; return the id of the live job."""
        alive = self.newest(name)
        if alive is not None and alive.alive:
            return alive.submission_id
        attempt = 1 if alive is None else alive.attempt + 1
        self._check_folder()
        with tempfile.TemporaryDirectory(prefix="proxytune-") as folder:
            files = Path(folder) / "job"
            files.mkdir()
            (files / "study.yaml").write_text(as_yaml(spec.model_dump(mode="json")), encoding="utf-8")
            try:
                return self._start(
                    f"proxytune-{name}-{attempt}",
                    [*arguments, "--address", "auto"],
                    files,
                    {_STUDY: name, _ATTEMPT: str(attempt)},
                )
            except ProxytuneError:
                rival = self.newest(name)  # another submitter was faster
                if rival is None or rival.attempt < attempt:
                    raise
                return rival.submission_id

    def jobs(self) -> list[Job]:
        """All submissions of studies that the cluster lists, oldest first."""
        found = [
            Job(
                submission_id=details.submission_id,
                study=details.metadata[_STUDY],
                attempt=int(details.metadata[_ATTEMPT]),
                status=str(details.status.value),
                message=(details.message or "").strip(),
                start_ms=details.start_time,
                end_ms=details.end_time,
            )
            for details in self._call("list_jobs")
            if details.submission_id and _STUDY in (details.metadata or {})
        ]
        return sorted(found, key=lambda job: (job.start_ms or 0, job.attempt))

    def newest(self, name: str) -> Job | None:
        """The study's last submission."""
        return max(
            (job for job in self.jobs() if job.study == name), key=lambda job: job.attempt, default=None
        )

    def status(self, name: str) -> str | None:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED; None if the study was never submitted here."""
        job = self.newest(name)
        return None if job is None else job.status

    def logs(self, name: str) -> str:
        """Output of the study's last submission so far.

        Raises:
            InputError: the study was never submitted here.
        """
        return str(self._call("get_job_logs", self.known(name).submission_id))

    def follow(self, name: str) -> Iterator[str]:
        """Yield the output of the study's last submission, from its beginning until it ends.

        Raises:
            InputError: the study was never submitted here.
            ProxytuneError: the connection was lost; the job is not affected.
        """
        lines: Any = self._client.tail_job_logs(self.known(name).submission_id)
        loop = asyncio.new_event_loop()
        try:
            while True:
                try:
                    yield loop.run_until_complete(anext(lines))
                except StopAsyncIteration:
                    return
                except (OSError, RuntimeError) as error:
                    raise ProxytuneError(
                        f"{self.address}: the log connection was lost ({one_line(error)}); the job keeps running"
                    ) from None
        finally:
            loop.run_until_complete(lines.aclose())
            loop.close()

    def stop(self, name: str) -> None:
        """Request the study's job to stop: every trial writes a checkpoint, from which `submit` resumes.

        Returns immediately; the job is killed if it has not ended after STOP_SECONDS.

        Raises:
            InputError: no job of the study is alive.
        """
        job = self.known(name)
        if not job.alive:
            raise InputError(f"study {name} is not running at {self.address}: its last job is {job.status}")
        self._call("stop_job", job.submission_id)

    def run(self, arguments: Sequence[str], files: Path) -> tuple[int, str]:
        """Run a proxytune command on the head node with `files` as its working directory; return exit code and output."""
        return self._ended(self._start(f"proxytune-{arguments[0]}-{time.time_ns()}", arguments, files, {}))

    def _ended(self, submission: str) -> tuple[int, str]:
        """Wait for a job to end; return its exit code and output."""
        while True:
            details = self._call("get_job_info", submission)
            if details.status.is_terminal():
                code = details.driver_exit_code
                return (1 if code is None else int(code)), str(self._call("get_job_logs", submission))
            time.sleep(0.5)

    def _check_folder(self) -> None:
        """Refuse a cluster where other users can replace a job's package, checked by a job without a package."""
        if not self._folder_is_private:
            look = f"exec python -I -c {shlex.quote(LOOK)}"
            _, output = self._ended(
                str(
                    self._call(
                        "submit_job", entrypoint=look, submission_id=f"proxytune-look-{time.time_ns()}"
                    )
                )
            )
            check_answer(output.strip().rpartition("\n")[2])
            self._folder_is_private = True

    def _start(self, submission: str, arguments: Sequence[str], files: Path, metadata: dict[str, str]) -> str:
        with tempfile.TemporaryDirectory(prefix="proxytune-") as name:
            environment = {
                "working_dir": str(files),
                "py_modules": package_folders(Path(name)),
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "COLUMNS": "160"},
            }
            return str(
                self._call(
                    "submit_job",
                    entrypoint=f"exec python -P -m proxytune.tuning {shlex.join(arguments)}",
                    submission_id=submission,
                    runtime_env=environment,
                    metadata=metadata | {"proxytune": importlib.metadata.version("proxytune")},
                )
            )

    def known(self, name: str) -> Job:
        """The study's last submission.

        Raises:
            InputError: it was never submitted here; the message lists the studies that were.
        """
        job = self.newest(name)
        if job is None:
            known = sorted({other.study for other in self.jobs()})
            there = f"studies there: {', '.join(known)}" if known else "it has no studies"
            raise InputError(f"study {name} was not submitted to {self.address}; {there}")
        return job

    def _call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        try:
            return getattr(self._client, method)(*arguments, **keywords)
        except (OSError, RuntimeError) as error:
            raise ProxytuneError(f"{self.address}: {one_line(error)}") from None

    def _authentication_mode(self) -> str:
        """The cluster's authentication mode; the only request that is sent without the token."""
        import requests

        try:
            answer = requests.get(f"{self.address}/api/authentication_mode", timeout=CONNECT_SECONDS)
            return str(answer.json()["authentication_mode"])
        except (requests.ConnectionError, requests.Timeout):
            raise InputError(
                f"no response from {self.address} within {CONNECT_SECONDS:g} s: is the head node up, and is this "
                "its dashboard's address (http://HEAD:8265, through a tunnel or a port-forward)?"
            ) from None
        except (requests.RequestException, ValueError, KeyError, TypeError):
            raise InputError(f"{self.address} is not the dashboard of Ray 2.52 or later") from None


def user_token() -> str | None:
    """The Ray token of this user's environment: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.

    Raises:
        InputError: RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        if not named and not path.exists():
            return None
        raise InputError(
            f"{'RAY_AUTH_TOKEN_PATH' if named else 'token'}: {path} cannot be read: {one_line(error)}"
        ) from None


@contextmanager
def _explicit_address() -> Iterator[None]:
    """Hide RAY_ADDRESS, which Ray would prefer over an explicit address."""
    hidden = {
        name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
