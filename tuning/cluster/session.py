"""A Ray session for one run of a study: a local Ray with token authentication, or an existing cluster."""

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxytune.tuning.cluster.jobs import user_token
from proxytune.tuning.cluster.package import package_folders
from proxytune.tuning.cluster.ray_private import (
    ask_gcs,
    autoscales,
    draining_nodes,
    gcs_address,
    keeping_sigterm,
    preloading,
    without_idle_processes,
    without_paths,
)
from proxytune.tuning.cluster.scratch import SCRATCH, scratch_folder
from proxytune.tuning.cluster.watch import leave_ray
from proxytune.tuning.errors import InputError, Interrupted, one_line
from proxytune.tuning.spec.trial_spec import Resources
from proxytune.tuning.store.importing import importing

LOCAL = "local"
TRAINING = ("proxytune.tuning.cluster.preload",)
"""The module that workers of trainings import at their start."""
CONNECT_SECONDS = 5.0
_HOST_PORT = re.compile(r"[^\s:/]+:\d{1,5}")
RECOUNT_SECONDS = 2.0  # validity of a count of the cluster's nodes
_PENDING = "1000"  # trials of one study that may wait for nodes started by an autoscaler

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Ray's state file is not used; the study's storage is authoritative
    "TUNE_WARN_THRESHOLD_S": "10",
}


@dataclass
class RaySession:
    """A connection to Ray and its scratch folder. The cluster may grow and shrink during the session.

    scales: whether an autoscaler may add nodes. Ray does not report to a driver how many and of which type.
    """

    scratch: Path
    scales: bool = False
    _counted: float = field(default=float("-inf"), init=False)
    _nodes: list[dict[str, float]] = field(default_factory=list, init=False)

    def trial_resources(self, resources: Resources) -> dict[str, float]:
        """Resources that Ray reserves for one trial.

        Raises:
            InputError: no node of the cluster has the resources of one trial, and no autoscaler can add nodes.
        """
        nodes = self.nodes()
        cpus = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
        gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
        gpu = resources.gpu if resources.gpu != "auto" else float(gpus > 0)
        if self.scales:
            return {"cpu": float(resources.cpu), "gpu": float(gpu)}
        if resources.cpu > cpus:
            raise InputError(f"resources.cpu: {resources.cpu} is more than the largest node has ({cpus:g})")
        if gpu > gpus:
            raise InputError(
                f"resources.gpu: {gpu:g} is more than the largest node has ({gpus:g}); "
                "set resources.gpu to 0 or auto, or use machines with a GPU"
            )
        return {"cpu": float(resources.cpu), "gpu": float(gpu)}

    def slots(self, needs: dict[str, float], max_concurrent: int | None) -> int:
        """Number of concurrent trials, each on one node; recounted as nodes join and leave.

        On a cluster with an autoscaler: `max_concurrent`, or one more than the nodes can run. The autoscaler starts a
        node for the waiting trial; further trials would be proposed before the results of running trials are known.
        """
        fits = 0
        for node in self.nodes():
            on_node = int(node.get("CPU", 0.0) // needs["cpu"])
            if needs["gpu"]:
                on_node = min(on_node, int(node.get("GPU", 0.0) / needs["gpu"] + 1e-9))
            fits += on_node
        if self.scales:
            return max_concurrent or fits + 1
        return min(fits, max_concurrent or fits)

    def nodes(self) -> list[dict[str, float]]:
        """Resources of each node that is alive and not draining."""
        if time.monotonic() - self._counted > RECOUNT_SECONDS:
            import ray

            draining = draining_nodes()
            known: list[dict[str, Any]] = ray.nodes()
            self._nodes = [
                dict(node["Resources"]) for node in known if node["Alive"] and node["NodeID"] not in draining
            ]
            self._counted = time.monotonic()
        return self._nodes


@contextmanager
def ray_session(
    address: str = LOCAL, preload: Sequence[str] = (), imported: Callable[[], object] = lambda: None
) -> Iterator[RaySession]:
    """Start Ray on this machine (ended at exit), or connect to the cluster at `address`: auto, or HOST:PORT of its head.

    The private scratch folder is removed at exit. It contains the folders of a local Ray, which Ray makes writable by
    every user. Ray protects its ports with the token of ~/.ray/auth_token (RAY_AUTH_MODE=disabled turns this off). The
    token is created here first, readable only by this user; Ray itself would make it readable by all users. The driver's
    folders, which may contain this repository's `datasets`, are kept off the workers' import path: locally by the job
    configuration, on a cluster by a working folder in the scratch folder. Nodes of a cluster also receive this package.

    Workers of a local Ray import the `preload` modules while the driver is still starting. `imported` is called when
    Ray's Python package is imported, before its processes start.

    Raises:
        InputError: there is no cluster at the address, it rejected the token, or its versions differ.
        Interrupted: Ray did not start in time; the machine is overloaded.
    """
    found = LOCAL if address == LOCAL else find_cluster(address)
    with scratch_folder() as scratch, _environment(address, scratch):
        if address == LOCAL:
            _ensure_token()
        with importing():
            import ray

        imported()
        options: dict[str, Any] = {"address": found, "log_to_driver": False, "logging_level": logging.ERROR}
        if address == LOCAL:
            options |= {
                "include_dashboard": False,
                "job_config": without_paths(),
                "_temp_dir": str(scratch / "ray"),
                "_system_config": preloading(preload),
            }
        elif "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a job already has a runtime environment
            (scratch / "workers").mkdir()
            modules = package_folders(scratch / "package")
            options["runtime_env"] = {"working_dir": str(scratch / "workers"), "py_modules": modules}
        try:
            with keeping_sigterm(), without_idle_processes() if address == LOCAL else nullcontext():
                ray.init(**options)
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            raise InputError(
                f"Ray at {address} cannot be used: {one_line(error)}. The driver of a study runs on a node of the "
                "cluster: from elsewhere, `proxytune submit STUDY --address http://HEAD:8265`"
            ) from None
        except Exception as error:  # Ray raises a plain Exception if its processes do not start within 30 s
            raise Interrupted(f"Ray did not start: {one_line(error)} The same command tries again") from None
        try:
            yield RaySession(scratch, scales=address != LOCAL and autoscales())
        finally:
            leave_ray()


@contextmanager
def _environment(address: str, scratch: Path) -> Iterator[None]:
    """Set the environment variables that Ray and Tune read, within this context."""
    os.environ["TUNE_DISABLE_AUTO_INIT"] = "1"  # not restored; see leave_ray
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT | {SCRATCH: str(scratch)})
    if address != LOCAL:
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = _PENDING
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def find_cluster(address: str) -> str:
    """HOST:PORT of a cluster that responds and accepts our token within CONNECT_SECONDS; Ray itself would take minutes.

    Raises:
        InputError: the address is not valid for a driver, there is no response, or the token is rejected.
    """
    if "://" in address:
        http = address if address.startswith("http") else "http://HEAD:8265"
        raise InputError(
            f"address {address}: a study's driver runs on a node of the cluster (auto, or HOST:PORT of the head), "
            f"not through a client; from here, `proxytune submit STUDY --address {http}` starts it there"
        )
    if address != "auto" and not _HOST_PORT.fullmatch(address):
        raise InputError(f"address {address!r} must be local, auto, or HOST:PORT such as 10.0.0.1:6379")
    if user_token() is not None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it once, at import
    import grpc

    try:
        found = gcs_address(address)
    except (OSError, ValueError) as error:
        raise InputError(f"address {address}: {one_line(error)}") from None
    try:
        ask_gcs(found, with_token=True, timeout_seconds=CONNECT_SECONDS)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise InputError(
                f"Ray at {found} rejected the token: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH must hold the token that "
                "the cluster was started with"
            ) from None
        raise InputError(
            f"no Ray cluster at {found} ({one_line(error.details() or error.code().name)}): give the port of its head, "
            "6379 by default, or start a cluster with `ray start --head`"
        ) from None
    return found


def _ensure_token() -> None:
    """Create the user's Ray token if it does not exist and RAY_AUTH_TOKEN(_PATH) is not set."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
