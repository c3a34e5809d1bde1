"""What could go wrong on a cluster, looked for before it does: `proxytune doctor`.

Each node is asked by an actor of its own that takes none of its cores; the driver asks what only it will use.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from proxytune.datasets import DataError, open_prepared
from proxytune.datasets.prepare import prepared_folder
from proxytune.tuning.cluster.jobs import one_line
from proxytune.tuning.cluster.private import check_private
from proxytune.tuning.cluster.ray_private import ask_gcs, session_folder
from proxytune.tuning.cluster.session import LOCAL, RaySession, find_cluster, ray_session
from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.spec.locations import check_uri, default_uri
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.database import database_url
from proxytune.tuning.store.folder import Folder, try_folder
from proxytune.tuning.store.lease import RENEWAL_SECONDS
from proxytune.tuning.trial.data import cache_folder

OK, WARNING, RED = "ok", "warning", "red"
PACKAGES = ("ray", "torch", "proxytune", "pyarrow", "numpy")
NODE_SECONDS = 120.0
"""How long a node may take to answer: its first worker process has to start."""


@dataclass(frozen=True)
class Finding:
    """One line of the table; node is a host's address or `cluster`."""

    node: str
    check: str
    state: str
    text: str

    def facts(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def examine(spec: StudySpec | None, address: str) -> list[Finding]:
    """Look at every node of a cluster (or this machine) with the eyes of a study, if one is given.

    Raises:
        InputError: there is no cluster at the address, or it cannot be connected to.
    """
    open_to_all = address != LOCAL and _takes_anybody(find_cluster(address))
    with ray_session(address) as session, _marker(spec) as marker:
        findings = [_token(open_to_all)] if address != LOCAL else []
        mine = versions()
        fingerprints: dict[str, str] = {}
        for name, answer in _ask_nodes(spec, marker):
            if isinstance(answer, Exception):
                findings.append(Finding(name, "answers", RED, one_line(answer)))
                continue
            findings += _judge_node(name, answer, mine)
            if answer["checkpoints"] is not None:  # then only the driver uses the folder
                findings.append(Finding(name, "checkpoints", *answer["checkpoints"]))
            elif marker is not None:
                findings.append(_judge_storage(name, answer, marker))
            if answer["fingerprint"]:
                fingerprints[name] = answer["fingerprint"]
        if len(set(fingerprints.values())) > 1:
            told = ", ".join(f"{name} has {value[:12]}" for name, value in fingerprints.items())
            findings.append(Finding("cluster", "data", RED, f"prepared data differ: {told}"))
        if spec is not None:
            findings += [_room(session, spec), _database(spec), _mlflow(spec)]
    return findings


def versions() -> dict[str, str]:
    """What this process runs with."""
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in PACKAGES
    }


class NodeProbe:
    """Runs on a node, as the trials will: with their environment, user and packages."""

    def clock(self) -> float:
        return time.time()

    def look(self, spec_json: str | None, marker: str | None) -> dict[str, Any]:
        spec = None if spec_json is None else StudySpec.model_validate_json(spec_json)
        return {
            "versions": versions(),
            "cuda": _cuda(),
            "folder": _look_at_folder(),
            "memory_gib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
            "storage": None if marker is None else _leave_marker(Path(marker)),
            "checkpoints": None if spec is None or spec.checkpoints is None else _try_store(spec.checkpoints),
        } | ({"data": None, "fingerprint": None} if spec is None else _look_for_data(spec))


def _ask_nodes(
    spec: StudySpec | None, marker: Path | None
) -> Iterator[tuple[str, dict[str, Any] | Exception]]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    probes = []
    probe_type: Any = ray.remote(NodeProbe)
    for node in known:
        if node["Alive"]:
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            probe = probe_type.options(num_cpus=0, scheduling_strategy=on_node).remote()
            arguments = (
                None if spec is None else spec.model_dump_json(),
                None if marker is None else str(marker),
            )
            probes.append((node, probe, probe.look.remote(*arguments)))
    deadline = time.monotonic() + NODE_SECONDS
    for node, probe, answer in probes:
        name = f"{node['NodeManagerAddress']} {node['NodeID'][:6]}"
        try:
            facts = ray.get(answer, timeout=max(1.0, deadline - time.monotonic()))
            yield name, facts | {"skew": _skew(probe), "resources": node["Resources"]}
        except Exception as error:  # whatever a sick node answers is a finding
            yield name, error


def _skew(probe: Any) -> tuple[float, float]:
    """By how many seconds the node's clock is ahead of ours, and how far that may be off."""
    import ray

    best = (0.0, float("inf"))
    for _ in range(3):
        before, started = time.time(), time.monotonic()
        theirs = ray.get(probe.clock.remote(), timeout=30)
        half = (time.monotonic() - started) / 2
        best = min(best, (theirs - before - half, half), key=lambda pair: pair[1])
    return best


def _judge_node(name: str, answer: dict[str, Any], mine: dict[str, str]) -> Iterator[Finding]:
    theirs = answer["versions"]
    others = [
        f"{package} {theirs[package]}, here {mine[package]}"
        for package in mine
        if theirs[package] != mine[package]
    ]
    told = "; ".join(others) or ", ".join(f"{package} {version}" for package, version in theirs.items())
    yield Finding(name, "versions", RED if others else OK, told)

    cpus, gpus = (float(answer["resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
    text = f"{cpus:g} CPU, {gpus:g} GPU, {answer['memory_gib']:.1f} GiB"
    if answer["cuda"]["gpus"]:
        text += f" ({'; '.join(answer['cuda']['gpus'])})"
    blind = gpus > 0 and answer["cuda"]["build"] is None
    if blind:
        text += "; torch there is a build without CUDA: install the CUDA one"
    yield Finding(name, "resources", RED if blind else OK, text)

    yield Finding(name, "folder", *answer["folder"])
    ahead, margin = answer["skew"]
    off = max(0.0, abs(ahead) - margin)
    state = RED if off > RENEWAL_SECONDS else WARNING if off > 1 else OK
    text = f"{ahead:+.2f} s (to {margin:.2f} s)"
    if state == RED:
        text += ": leases and logs go by the clock; set it by NTP"
    yield Finding(name, "clock", state, text)
    if answer["data"] is not None:
        yield Finding(name, "data", *answer["data"])


def _look_at_folder() -> tuple[str, str]:
    folder = session_folder()
    try:
        check_private(folder)
    except InputError as error:
        return RED, str(error)
    return OK, f"{folder} is this user's alone"


def _judge_storage(name: str, answer: dict[str, Any], marker: Path) -> Finding:
    storage = marker.parent
    if answer["storage"][0] == OK and not (marker / answer["storage"][1]).exists():
        return Finding(
            name, "storage", RED, f"{storage} is another folder there than here: mount the shared one"
        )
    state, text = answer["storage"]
    return Finding(name, "storage", state, f"{storage} is shared and writable" if state == OK else text)


def _leave_marker(marker: Path) -> tuple[str, str]:
    """(OK, the name of a file that was written beside the driver's) or (RED, why not)."""
    if not (marker / "driver").exists():
        return RED, f"{marker.parent} is not the driver's folder there: mount the shared one on every node"
    try:
        name = uuid.uuid4().hex
        (marker / name).write_text(platform.node())
        return OK, name
    except OSError as error:
        return RED, f"{marker.parent} cannot be written there: {error.strerror} (as user {os.getuid()})"


def _try_store(url: str) -> tuple[str, str]:
    try:
        try_folder(Folder(url))
    except StorageError as error:
        return RED, str(error)
    return OK, f"{url} is writable"


def _look_for_data(spec: StudySpec) -> dict[str, Any]:
    task, cache = spec.task, cache_folder()
    try:
        folder = prepared_folder(task.name, **task.source, cache=cache, **task.options)
        if folder.exists():
            return {"data": (OK, f"prepared in {folder}"), "fingerprint": open_prepared(folder).fingerprint}
        cache.mkdir(parents=True, exist_ok=True)
        marker = cache / f".doctor-{uuid.uuid4().hex}"
        marker.write_text("")
        marker.unlink()
    except DataError as error:
        return {"data": (RED, one_line(error)), "fingerprint": None}
    except OSError as error:
        text = f"{cache} cannot be written: {error.strerror}; set PROXYTUNE_CACHE to a folder that can"
        return {"data": (RED, text), "fingerprint": None}
    text = f"not prepared yet; will be, {task.described_source()}, before the first trial there"
    return {"data": (OK, text), "fingerprint": None}


def _cuda() -> dict[str, Any]:
    """What torch there was built for, and the GPUs that the driver program lists."""
    import torch

    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    gpus: list[str] = []
    if shutil.which(query[0]):
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
        gpus = done.stdout.splitlines() if done.returncode == 0 else []
    return {"build": torch.version.cuda, "gpus": gpus}


@contextmanager
def _marker(spec: StudySpec | None) -> Iterator[Path | None]:
    """A folder in the study's storage that holds a file of the driver, for as long as the context is held."""
    if spec is None:
        yield None
        return
    marker = spec.storage.absolute() / f".doctor-{uuid.uuid4().hex}"
    try:
        marker.mkdir(parents=True)
        (marker / "driver").write_text(platform.node())
    except OSError:
        pass  # each node will say that it is not there
    try:
        yield marker
    finally:
        shutil.rmtree(marker, ignore_errors=True)


def _takes_anybody(gcs_address: str) -> bool:
    """Whether the cluster answers one who shows no token."""
    import grpc

    try:
        ask_gcs(gcs_address, with_token=False, timeout_seconds=5)
    except grpc.RpcError:
        return False
    return True


def _token(open_to_all: bool) -> Finding:
    if open_to_all:
        text = "anybody who reaches its ports can run code: start it with RAY_AUTH_MODE=token"
        return Finding("cluster", "token", RED, text)
    return Finding("cluster", "token", OK, "asked of everybody")


def _room(session: RaySession, spec: StudySpec) -> Finding:
    try:
        needs = session.trial_resources(spec.resources)
    except InputError as error:
        return Finding("cluster", "room", RED, str(error))
    fits = session.slots(needs, None)
    wanted = spec.resources.max_concurrent
    text = f"{fits} trials of {needs['cpu']:g} CPU and {needs['gpu']:g} GPU at once"
    if wanted is not None and fits < wanted:
        return Finding("cluster", "room", RED, f"{text}, resources.max_concurrent asks for {wanted}")
    return Finding("cluster", "room", OK, text)


def _database(spec: StudySpec) -> Finding:
    url = sa.engine.make_url(database_url(spec.folder, spec.database))
    told = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite":
        folder = Path(url.database or "").parent
        while not folder.exists():
            folder = folder.parent
        writable = os.access(folder, os.W_OK)
        return Finding(
            "cluster", "database", OK if writable else RED, told if writable else f"{folder} is read-only"
        )
    options = {"connect_timeout": 10} if url.get_backend_name() == "postgresql" else {}
    try:
        engine = sa.create_engine(url, connect_args=options)
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        engine.dispose()
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        return Finding("cluster", "database", RED, f"{told}: {one_line(error)}")
    return Finding("cluster", "database", OK, told)


def _mlflow(spec: StudySpec) -> Finding:
    uri = check_uri(spec.tracking.uri or default_uri(spec.storage))
    if uri.startswith("sqlite"):
        return Finding("cluster", "mlflow", OK, uri)
    if not uri.startswith("http"):
        return _database(spec.model_copy(update={"database": uri}))
    request = urllib.request.Request(
        f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1",
        headers={"Content-Type": "application/json"} | _basic_auth(),
    )
    try:
        with urllib.request.urlopen(request, timeout=10):
            return Finding("cluster", "mlflow", OK, uri)
    except urllib.error.HTTPError as error:
        hint = {
            401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD on the cluster",
            403: "not allowed, or its --allowed-hosts lacks this address",
        }.get(error.code, error.reason)
        return Finding("cluster", "mlflow", RED, f"{uri} answers {error.code}: {hint}")
    except OSError as error:
        text = f"{uri} does not answer: {one_line(error)}; trials run all the same, and are shipped later"
        return Finding("cluster", "mlflow", RED, text)


def _basic_auth() -> dict[str, str]:
    name, word = (os.environ.get(f"MLFLOW_TRACKING_{part}") for part in ("USERNAME", "PASSWORD"))
    if name is None or word is None:
        return {}
    return {"Authorization": "Basic " + b64encode(f"{name}:{word}".encode()).decode()}
