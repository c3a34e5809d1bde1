"""Client: a `proxytune serve` from Python, with the exceptions of the command line.

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
from collections.abc import Iterator, Mapping
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
"""How long an event stream waits before each further try to reach a server that is away."""
EXPORT_SECONDS = 600.0
"""An export writes and checks its programs before the first byte leaves the server."""
PING_SECONDS = 60.0
"""A server whose stream says nothing for so long is away; it pings every 15 seconds."""


class Client:
    """One server. A context manager; usable from several threads.

    Args:
        url: where it listens; default $PROXYTUNE_URL, else this machine's port 8642.
        token: its bearer token; default: the file's, else $PROXYTUNE_TOKEN.
        token_file: a file that holds the token alone, or as `name:token`.
        timeout: seconds that an answer may take to begin.

    Every method raises the exceptions of `proxytune.tuning.errors` with the server's words, and ProxytuneError when
    nothing answers.

    Raises:
        InputError: the token file cannot be read, or the address is none.
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
            raise InputError(f"{self.url}: a server's address is like {URL}")
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
        """Let the connections go."""
        self._http.close()

    def submit(self, study: str | Path | Mapping[str, Any]) -> dict[str, Any]:
        """Start or resume a study: a file, the name of a shipped one, YAML text, or its values. Returns the job.

        Raises:
            OtherSpecError: a study of this name exists with another spec.
            HeldError: another driver runs it.
        """
        if isinstance(study, Mapping):
            content, kind = json.dumps(study).encode(), "application/json"
        else:
            content, kind = _study_file(study), "application/yaml"
        return self._post("studies", content=content, headers={"Content-Type": kind})

    def studies(self) -> list[dict[str, Any]]:
        """All studies, in the order of their names."""
        return self._pages("studies", "studies", 50, {})

    def study(self, name: str) -> dict[str, Any]:
        """How a study stands: trials by outcome, the best, who runs it."""
        return self._get(f"studies/{name}")

    def spec(self, name: str) -> dict[str, Any]:
        """A study's specification, every default filled in."""
        return self._get(f"studies/{name}/spec")

    def trials(self, name: str, outcome: str | None = None) -> list[dict[str, Any]]:
        """A study's trials by number; only those of the outcome, if one is named."""
        return self._pages(f"studies/{name}/trials", "trials", 1000, {"outcome": outcome} if outcome else {})

    def events(self, name: str, *, follow: bool = True, after: int = 0) -> Iterator[dict[str, Any]]:
        """A study's events in order, `follow`ed until it ends; a server that is away for a while costs none.

        `after` is the `offset` of the last event that was seen.
        """
        tries = iter(RECONNECT_SECONDS)
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
                        tries = iter(RECONNECT_SECONDS)
                        ended = event["kind"] == "study_end"
                        yield event | {"offset": after}
                if ended or not follow:
                    return
                reason = "the stream ended"
            except httpx.InvalidURL as error:
                raise ProxytuneError(f"{self.url}: {_reason(error)}") from None
            except (httpx.TransportError, StorageError) as error:
                reason = _reason(error)
            wait = next(tries, None)
            if wait is None:
                raise ProxytuneError(f"{self.url} went away: {reason}")
            time.sleep(wait)

    def stop(self, name: str, *, now: bool = False, trial: int | None = None) -> dict[str, Any]:
        """Stop a study after its running trials, or `now` with a checkpoint; with `trial`, end that one for good."""
        return self._post(f"studies/{name}/stop", json={"now": now, "trial": trial})

    def pause(self, name: str) -> dict[str, Any]:
        """Let running trials hand back their slots and start none until `resume`."""
        return self._post(f"studies/{name}/pause")

    def resume(self, name: str) -> dict[str, Any]:
        """Let a study go on that is paused, stopped, or extended after its end."""
        return self._post(f"studies/{name}/resume")

    def extend(self, name: str, trials: int) -> dict[str, Any]:
        """Let a study take so many trials in all."""
        return self._post(f"studies/{name}/extend", json={"trials": trials})

    def enqueue(self, name: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Put a configuration before anything that the sampler proposes."""
        return self._post(f"studies/{name}/enqueue", json={"params": dict(params)})

    def best(
        self, name: str, *, max_memory_mib: float | None = None, min_throughput: float | None = None
    ) -> dict[str, Any]:
        """The study's winner, or the best trial within these limits, and the rule that chose it.

        `max_memory_mib` bounds train_memory_mib_per_sequence, `min_throughput` train_sequences_per_second.
        """
        request = export_request(max_memory_mib=max_memory_mib, min_throughput=min_throughput)
        return self._get(f"studies/{name}/best", request.limits)

    def pareto(self, name: str) -> dict[str, Any]:
        """The Pareto front; a single objective is weighed against training memory."""
        return self._get(f"studies/{name}/pareto")

    def confirm(self, name: str, *, top: int = 5, seeds: int = 5) -> dict[str, Any]:
        """Train the `top` best candidates again on fresh `seeds` and test the winner once, as a job of the cluster."""
        return self._post(f"studies/{name}/confirm", json={"top": top, "seeds": seeds})

    def confirmation(self, name: str) -> dict[str, Any]:
        """What the confirmation found."""
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
        """Fetch the winner, one trial, or the Pareto front as a new folder at `path`; its own sums are checked.

        Raises:
            InputError: `path` exists, there is no such trial, or arguments exclude each other.
            StorageError: what arrived is damaged, or cannot be written; nothing is left behind.
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
                f"{self.url}: the archive was not received whole: {_reason(error)}"
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
            raise ProxytuneError(f"{self.url} answers, but is no proxytune service") from None
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
        raise InputError(f"{str(path)!r} is no path: no name has a NUL")


def _token_in(path: Path) -> str:
    _check_path(path)
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"token file {path}: {getattr(error, 'strerror', None) or 'not text'}") from None
    if len(lines) != 1:
        raise InputError(f"token file {path}: holds {len(lines)} words; it must hold one token")
    return lines[0].rpartition(":")[2]


def _study_file(study: str | Path) -> bytes:
    """The content of a file or of a shipped study; text of more than one line is YAML itself."""
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
    """Raise the error that the server tells, as the class that it was there."""
    if answer.is_success:
        return
    try:
        problem = json.loads(answer.read())
        kind = getattr(errors, problem["error"])
        detail, hint = problem["detail"], problem["hint"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ProxytuneError(f"{answer.url} answers {answer.status_code} {answer.reason_phrase}") from None
    if not (isinstance(kind, type) and issubclass(kind, ProxytuneError)):
        kind = ProxytuneError
    raise kind(f"{detail} ({hint})" if answer.status_code in (401, 403, 413, 429) else detail)


def _parse(lines: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The events of a server-sent stream that this service writes: one line of JSON each, with its id."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            yield int(fields["id"]), json.loads(fields["data"])
            fields = {}
