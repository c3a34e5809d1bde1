"""`proxytune doctor`: checks a cluster for problems before a study runs.

An actor on each node, which reserves no cores, runs the node's checks; the driver checks services that only it uses.
"""

import os
import platform
import shutil
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

from proxytune.tuning.cluster.node_probe import OK, RED, WARNING, NodeProbe, versions
from proxytune.tuning.cluster.ray_private import ask_gcs, untested
from proxytune.tuning.cluster.session import LOCAL, RaySession, find_cluster, ray_session
from proxytune.tuning.errors import InputError, one_line
from proxytune.tuning.spec.locations import check_uri, default_uri
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.lease import RENEWAL_SECONDS
from proxytune.tuning.store.stored_study import database_url

NODE_SECONDS = 120.0
"""Time limit for a node's answer; its first worker process has to start."""


@dataclass(frozen=True)
class Finding:
    """One line of the table; node is a host's address or `cluster`."""

    node: str
    check: str
    state: str
    text: str

    def facts(self) -> dict[str, str]:
        """The fields as JSON values."""
        return asdict(self)


def examine(spec: StudySpec | None, address: str) -> list[Finding]:
    """Check every node of a cluster, or this machine, for a study if one is given.

    Raises:
        InputError: there is no cluster at the address, or the connection failed.
    """
    open_to_all = address != LOCAL and _accepts_without_token(find_cluster(address))
    with ray_session(address) as session, _marker(spec) as marker:
        findings = [_token(open_to_all)] if address != LOCAL else []
        mine = versions()
        fingerprints: dict[str, str] = {}
        for name, answer in _ask_nodes(spec, marker):
            if isinstance(answer, Exception):
                findings.append(Finding(name, "answers", RED, one_line(answer)))
                continue
            findings += _node_findings(name, answer, mine)
            if answer["checkpoints"] is not None:  # then only the driver uses the folder
                findings.append(Finding(name, "checkpoints", *answer["checkpoints"]))
            elif marker is not None:
                findings.append(_storage_finding(name, answer, marker))
            if answer["fingerprint"]:
                fingerprints[name] = answer["fingerprint"]
        if len(set(fingerprints.values())) > 1:
            listed = ", ".join(f"{name} has {value[:12]}" for name, value in fingerprints.items())
            findings.append(Finding("cluster", "data", RED, f"prepared data differ: {listed}"))
        if spec is not None:
            findings += [_room(session, spec), _database(spec), _mlflow(spec)]
    return findings


def _ask_nodes(
    spec: StudySpec | None, marker: Path | None
) -> Iterator[tuple[str, dict[str, Any] | Exception]]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    known: list[dict[str, Any]] = ray.nodes()
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
            probes.append((node, probe, probe.inspect.remote(*arguments)))
    deadline = time.monotonic() + NODE_SECONDS
    for node, probe, answer in probes:
        name = f"{node['NodeManagerAddress']} {node['NodeID'][:6]}"
        try:
            facts = ray.get(answer, timeout=max(1.0, deadline - time.monotonic()))
            yield name, facts | {"skew": _skew(probe), "resources": node["Resources"]}
        except Exception as error:  # any failure of a node is a finding
            yield name, error


def _skew(probe: Any) -> tuple[float, float]:
    """Seconds by which the node's clock is ahead of this one, and the error bound."""
    import ray

    best = (0.0, float("inf"))
    for _ in range(3):
        before, started = time.time(), time.monotonic()
        theirs = ray.get(probe.clock.remote(), timeout=30)
        half = (time.monotonic() - started) / 2
        best = min(best, (theirs - before - half, half), key=lambda pair: pair[1])
    return best


def _node_findings(name: str, answer: dict[str, Any], mine: dict[str, str]) -> Iterator[Finding]:
    theirs = answer["versions"]
    others = [
        f"{package} {theirs[package]}, here {mine[package]}"
        for package in mine
        if theirs[package] != mine[package]
    ]
    text = "; ".join(others) or ", ".join(f"{package} {version}" for package, version in theirs.items())
    yield Finding(name, "versions", RED if others else OK, text)
    if (warning := untested(theirs["ray"])) is not None:
        yield Finding(name, "ray", WARNING, warning)

    cpus, gpus = (float(answer["resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
    text = f"{cpus:g} CPU, {gpus:g} GPU, {answer['memory_gib']:.1f} GiB"
    if answer["cuda"]["gpus"]:
        text += f" ({'; '.join(answer['cuda']['gpus'])})"
    cpu_only = gpus > 0 and answer["cuda"]["build"] is None
    if cpu_only:
        text += "; torch there is a build without CUDA: install a CUDA build"
    yield Finding(name, "resources", RED if cpu_only else OK, text)

    yield Finding(name, "folder", *answer["folder"])
    ahead, margin = answer["skew"]
    off = max(0.0, abs(ahead) - margin)
    state = RED if off > RENEWAL_SECONDS else WARNING if off > 1 else OK
    text = f"{ahead:+.2f} s (to {margin:.2f} s)"
    if state == RED:
        text += ": leases and logs depend on the clock; synchronize it with NTP"
    yield Finding(name, "clock", state, text)
    if answer["data"] is not None:
        yield Finding(name, "data", *answer["data"])


def _storage_finding(name: str, answer: dict[str, Any], marker: Path) -> Finding:
    storage = marker.parent
    if answer["storage"][0] == OK and not (marker / answer["storage"][1]).exists():
        return Finding(
            name, "storage", RED, f"{storage} is a different folder there: mount the shared folder"
        )
    state, text = answer["storage"]
    return Finding(name, "storage", state, f"{storage} is shared and writable" if state == OK else text)


@contextmanager
def _marker(spec: StudySpec | None) -> Iterator[Path | None]:
    """A temporary folder in the study's storage that contains a file written by the driver."""
    if spec is None:
        yield None
        return
    marker = spec.storage.absolute() / f".doctor-{uuid.uuid4().hex}"
    try:
        marker.mkdir(parents=True)
        (marker / "driver").write_text(platform.node())
    except OSError:
        pass  # each node will report that it is missing
    try:
        yield marker
    finally:
        shutil.rmtree(marker, ignore_errors=True)


def _accepts_without_token(gcs_address: str) -> bool:
    """Whether the cluster answers a request without a token."""
    import grpc

    try:
        ask_gcs(gcs_address, with_token=False, timeout_seconds=5)
    except grpc.RpcError:
        return False
    return True


def _token(open_to_all: bool) -> Finding:
    if open_to_all:
        text = "anyone who can reach its ports can run code: start it with RAY_AUTH_MODE=token"
        return Finding("cluster", "token", RED, text)
    return Finding("cluster", "token", OK, "required for every connection")


def _room(session: RaySession, spec: StudySpec) -> Finding:
    try:
        needs = session.trial_resources(spec.resources)
    except InputError as error:
        return Finding("cluster", "room", RED, str(error))
    fits = session.slots(needs, None) - session.scales
    wanted = spec.resources.max_concurrent
    text = f"{fits} trials of {needs['cpu']:g} CPU and {needs['gpu']:g} GPU at once"
    if session.scales:
        return Finding("cluster", "room", OK, f"{text}; the autoscaler may add nodes")
    if wanted is not None and fits < wanted:
        return Finding("cluster", "room", RED, f"{text}, resources.max_concurrent is {wanted}")
    return Finding("cluster", "room", OK, text)


def _database(spec: StudySpec) -> Finding:
    url = sa.engine.make_url(database_url(spec.folder, spec.database))
    shown = url.render_as_string(hide_password=True)
    if url.get_backend_name() == "sqlite":
        folder = Path(url.database or "").parent
        while not folder.exists():
            folder = folder.parent
        writable = os.access(folder, os.W_OK)
        return Finding(
            "cluster", "database", OK if writable else RED, shown if writable else f"{folder} is read-only"
        )
    options = {"connect_timeout": 10} if url.get_backend_name() == "postgresql" else {}
    try:
        engine = sa.create_engine(url, connect_args=options)
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        engine.dispose()
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        return Finding("cluster", "database", RED, f"{shown}: {one_line(error)}")
    return Finding("cluster", "database", OK, shown)


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
        text = f"{uri} does not respond: {one_line(error)}; trials run without it and are shipped later"
        return Finding("cluster", "mlflow", RED, text)


def _basic_auth() -> dict[str, str]:
    name, word = (os.environ.get(f"MLFLOW_TRACKING_{part}") for part in ("USERNAME", "PASSWORD"))
    if name is None or word is None:
        return {}
    return {"Authorization": "Basic " + b64encode(f"{name}:{word}".encode()).decode()}
