"""Python client of `proxytune serve`, with the exceptions of the command line.

from proxytune.tuning import Client

client = Client("http://head:8642", token_file="token")
client.submit("listops-mini")
for event in client.events("listops-mini"):
    print(event["kind"])
client.export("listops-mini", "winner")
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from proxytune.tuning import errors
from proxytune.tuning.errors import InputError, ProxytuneError, StorageError
from proxytune.tuning.export.request import export_request
from proxytune.tuning.service.archive import unpack

URL = "http://127.0.0.1:8642"
TIMEOUT_SECONDS = 60.0
RECONNECT_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""Delays before each attempt to reconnect an event stream."""
EXPORT_SECONDS = 600.0
"""The server writes and checks an export's programs before it sends the first byte."""
PING_SECONDS = 60.0
"""An event stream that is silent for longer is reconnected; the server pings every 15 seconds."""


class Client:
    """Client of one server. A context manager; thread-safe.

    Args:
        url: the server's address; default $PROXYTUNE_URL, else this machine's port 8642.
        token: bearer token; default: that of `token_file`, else $PROXYTUNE_TOKEN.
        token_file: a file with one token, alone or as `name:token`.
        timeout: seconds to wait for the beginning of a response.

    Every method raises the exceptions of `proxytune.tuning.errors` with the server's message, and ProxytuneError if
    the server does not respond.

    Raises:
        InputError: the token file cannot be read, or `url` is not an HTTP address.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        token_file: str | Path | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        self.url = (url or os.environ.get("PROXYTUNE_URL") or URL).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"{self.url}: not an HTTP address; an example is {URL}")
        if token is None and token_file is not None:
            token = _token_in(Path(token_file))
        token = token or os.environ.get("PROXYTUNE_TOKEN", "").strip()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(base_url=f"{self.url}/v1/", headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, study: str | Path | Mapping[str, Any]) -> dict[str, Any]:
        """Start or resume a study, given as a file, the name of a shipped study, YAML text or a mapping. Returns the job.

        Raises:
            OtherSpecError: a study of this name exists with a different spec.
            HeldError: another driver runs it.
        """
        if isinstance(study, Mapping):
            content, kind = json.dumps(study).encode(), "application/json"
        else:
            content, kind = _study_file(study), "application/yaml"
        return self._post("studies", content=content, headers={"Content-Type": kind})

    def studies(self) -> list[dict[str, Any]]:
        """All studies, sorted by name."""
        return self._pages("studies", "studies", 50, {})

    def study(self, name: str) -> dict[str, Any]:
        """The state of a study: trials by outcome, the best trials, the driver."""
        return self._get(f"studies/{name}")

    def spec(self, name: str) -> dict[str, Any]:
        """A study's spec with all defaults filled in."""
        return self._get(f"studies/{name}/spec")

    def trials(self, name: str, outcome: str | None = None) -> list[dict[str, Any]]:
        """A study's trials, sorted by number; with `outcome`, only the trials with this outcome."""
        return self._pages(f"studies/{name}/trials", "trials", 1000, {"outcome": outcome} if outcome else {})

    def events(self, name: str, *, follow: bool = True, after: int = 0) -> Iterator[dict[str, Any]]:
        """A study's events in order; with `follow`, until it ends. Reconnects to a server that is away, without losing events.

        `after` is the `offset` of the last event that was received.
        """
        delays = iter(RECONNECT_SECONDS)
        while True:
            ended = False
            try:
                with self._http.stream(
                    "GET",
                    f"studies/{name}/events",
                    params={"follow": follow},
                    headers={"Last-Event-ID": str(after)},
                    timeout=httpx.Timeout(self._http.timeout.connect, read=PING_SECONDS),
                ) as answer:
                    _raise_for(answer)
                    for after, event in _parse(answer.iter_lines()):
                        delays = iter(RECONNECT_SECONDS)
                        ended = event["kind"] == "study_end"
                        yield event | {"offset": after}
                if ended or not follow:
                    return
                reason = "the stream ended"
            except httpx.InvalidURL as error:
                raise ProxytuneError(f"{self.url}: {_reason(error)}") from None
            except (httpx.TransportError, StorageError) as error:
                reason = _reason(error)
            delay = next(delays, None)
            if delay is None:
                raise ProxytuneError(f"{self.url} is not reachable any more: {reason}")
            time.sleep(delay)

    def stop(self, name: str, *, now: bool = False, trial: int | None = None) -> dict[str, Any]:
        """Stop a study after its running trials, or `now` with checkpoints; with `trial`, stop only that trial for good."""
        return self._post(f"studies/{name}/stop", json={"now": now, "trial": trial})

    def pause(self, name: str) -> dict[str, Any]:
        """Release the slots of running trials, with checkpoints, and start no trial until `resume`."""
        return self._post(f"studies/{name}/pause")

    def resume(self, name: str) -> dict[str, Any]:
        """Resume a study that is paused, stopped, or extended after its end."""
        return self._post(f"studies/{name}/resume")

    def extend(self, name: str, trials: int) -> dict[str, Any]:
        """Set the total number of trials of a study."""
        return self._post(f"studies/{name}/extend", json={"trials": trials})

    def enqueue(self, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Run a configuration before those that the sampler proposes."""
        return self._post(f"studies/{name}/enqueue", json={"params": dict(params)})

    def best(
        self, name: str, *, max_memory_mib: float | None = None, min_throughput: float | None = None
    ) -> dict[str, Any]:
        """The study's winner, or the best trial within these limits, with the rule that chose it.

        `max_memory_mib` bounds train_memory_mib_per_sequence, `min_throughput` train_sequences_per_second.
        """
        request = export_request(max_memory_mib=max_memory_mib, min_throughput=min_throughput)
        return self._get(f"studies/{name}/best", request.limits)

    def pareto(self, name: str) -> dict[str, Any]:
        """The Pareto front; of a single objective, against training memory."""
        return self._get(f"studies/{name}/pareto")

    def confirm(
        self, name: str, *, top: int = 5, seeds: int = 5, trials: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Train the `top` best candidates, and `trials`, again on fresh `seeds` and test the winner once, as a job."""
        body = {"top": top, "seeds": seeds} | ({"trials": list(trials)} if trials else {})
        return self._post(f"studies/{name}/confirm", json=body)

    def confirmation(self, name: str) -> dict[str, Any]:
        """The result of the confirmation."""
        return self._get(f"studies/{name}/confirmation")

    def export(
        self,
        name: str,
        path: str | Path,
        *,
        trial: int | None = None,
        pareto: bool = False,
        max_memory_mib: float | None = None,
        min_throughput: float | None = None,
    ) -> Path:
        """Fetch the winner, one trial, or the Pareto front as a new folder at `path` and check its digests.

        Raises:
            InputError: `path` exists, there is no such trial, or arguments exclude each other.
            StorageError: the archive is damaged, or cannot be written; no partial folder is left behind.
        """
        path = Path(path)
        _check_path(path)
        if path.exists() or path.is_symlink():
            raise InputError(f"{path} exists; name a folder that does not, or remove it first")
        request = export_request(
            trial=trial, pareto=pareto, max_memory_mib=max_memory_mib, min_throughput=min_throughput
        )
        asked = request.model_dump(exclude_defaults=True)
        try:
            path.absolute().parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=f".{path.name}-") as scratch:
                archive = Path(scratch) / "archive.tar"
                self._download(f"studies/{name}/export", asked, archive)
                unpack(archive, Path(scratch) / "folder").rename(path)
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from None
        return path

    def _download(self, address: str, params: Mapping[str, Any], file: Path) -> None:
        try:
            with self._http.stream("GET", address, params=params, timeout=EXPORT_SECONDS) as answer:
                _raise_for(answer)
                with file.open("wb") as archive:
                    for piece in answer.iter_bytes():
                        archive.write(piece)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ProxytuneError(
                f"{self.url}: the archive was not received completely: {_reason(error)}"
            ) from None

    def _get(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self._ask("GET", path, params=params)

    def _post(self, path: str, **request: Any) -> dict[str, Any]:
        return self._ask("POST", path, **request)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **request)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ProxytuneError(f"{self.url}: {_reason(error)}") from None
        _raise_for(answer)
        try:
            found: dict[str, Any] = answer.json()
        except ValueError:
            raise ProxytuneError(f"{self.url} responds, but is not a proxytune service") from None
        return found

    def _pages(self, path: str, key: str, limit: int, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._get(path, {**params, "offset": len(found), "limit": limit})
            found += page[key]
            if not page[key] or len(found) >= page["total"]:
                return found


def _check_path(path: Path) -> None:
    if "\0" in str(path):
        raise InputError(f"{str(path)!r} is not a path: it contains a NUL character")


def _token_in(path: Path) -> str:
    _check_path(path)
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"token file {path}: {getattr(error, 'strerror', None) or 'not text'}") from None
    if len(lines) != 1:
        raise InputError(f"token file {path}: contains {len(lines)} words; it must contain one token")
    return lines[0].rpartition(":")[2]


def _study_file(study: str | Path) -> bytes:
    """The content of a file or of a shipped study; text of several lines is taken as YAML."""
    from proxytune.tuning.studies import shipped_studies

    if isinstance(study, str) and "\n" in study:
        return study.encode()
    path = Path(study)
    _check_path(path)
    try:
        if not path.exists():
            path = shipped_studies().get(str(study), path)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{study}: {error.strerror}, and no shipped study of that name") from None


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _raise_for(answer: httpx.Response) -> None:
    """Raise the error of an error response, as the class that the server raised."""
    if answer.is_success:
        return
    try:
        problem = json.loads(answer.read())
        kind = getattr(errors, problem["error"])
        detail, hint = problem["detail"], problem["hint"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ProxytuneError(f"{answer.url} responds {answer.status_code} {answer.reason_phrase}") from None
    if not (isinstance(kind, type) and issubclass(kind, ProxytuneError)):
        kind = ProxytuneError
    raise kind(f"{detail} ({hint})" if answer.status_code in (401, 403, 413, 429) else detail)


def _parse(lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Parse a server-sent event stream of this service into (id, event); an event is one line of JSON."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield int(fields["id"]), json.loads(fields["data"])
            fields = {}
