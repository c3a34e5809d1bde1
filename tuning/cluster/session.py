"""Ray for one run of a study: started here with a token of its own, or an existing cluster; nothing of it is kept."""

import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxytune.tuning.cluster.jobs import one_line, user_token
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
from proxytune.tuning.errors import InputError, Interrupted
from proxytune.tuning.spec.trial_spec import Resources

LOCAL = "local"
TRAINING = (
    "proxytune.tuning.cluster.trainable",
    "proxytune.tuning.trial.trial_run",
    "proxytune.tuning.trial.efficiency",
)
"""The modules that workers need first: Tune, torch and the trainer."""
CONNECT_SECONDS = 5.0
_HOST_PORT = re.compile(r"[^\s:/]+:\d{1,5}")
RECOUNT_SECONDS = 2.0  # how long a count of the cluster's nodes is good
_PENDING = "1000"  # trials of one study that may wait for nodes that an autoscaler has yet to start

_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the study's storage holds the truth, not Ray's state file
    "TUNE_WARN_THRESHOLD_S": "10",
}


@dataclass
class RaySession:
    """A connection to Ray and a scratch folder that goes with it. The cluster may grow and shrink meanwhile.

    scales: whether an autoscaler may add nodes to it. Ray does not tell a driver how many, and of which kind.
    """

    scratch: Path
    scales: bool = False
    _counted: float = field(default=float("-inf"), init=False)
    _nodes: list[dict[str, float]] = field(default_factory=list, init=False)

    def trial_resources(self, resources: Resources) -> dict[str, float]:
        """What Ray reserves for one trial.

        Raises:
            InputError: no node of the cluster has what one trial needs, and none can be added.
        """
        nodes = self.nodes()
        cpus = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
        gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
        gpu = resources.gpu if resources.gpu != "auto" else float(gpus > 0)
        if self.scales:
            return {"cpu": float(resources.cpu), "gpu": float(gpu)}
        if resources.cpu > cpus:
            raise InputError(f"resources.cpu: {resources.cpu} is more than a node has here ({cpus:g})")
        if gpu > gpus:
            raise InputError(
                f"resources.gpu: {gpu:g} is more than a node has here ({gpus:g}); "
                "set resources.gpu to 0 or auto, or use machines with a GPU"
            )
        return {"cpu": float(resources.cpu), "gpu": float(gpu)}

    def slots(self, needs: dict[str, float], max_concurrent: int | None) -> int:
        """How many trials may be out at once, each on one node; recounted as nodes come and go.

        On a cluster that scales, `max_concurrent`, else one more than there is room for: the autoscaler starts a node for
        a trial that waits, and more trials than that would be proposed before others have told what they found.
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
        """The resources of each node that takes trials."""
        if time.monotonic() - self._counted > RECOUNT_SECONDS:
            import ray

            draining = draining_nodes()
            known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
            self._nodes = [
                dict(node["Resources"]) for node in known if node["Alive"] and node["NodeID"] not in draining
            ]
            self._counted = time.monotonic()
        return self._nodes


@contextmanager
def ray_session(address: str = LOCAL, preload: Sequence[str] = ()) -> Iterator[RaySession]:
    """Ray on this machine (ended at exit), or the cluster at `address`: auto, or HOST:PORT of its head.

    The scratch folder, which this user alone can enter, is removed at exit. A local Ray's folders, which all could write,
    lie in it. Ray guards its ports with the token of ~/.ray/auth_token
    (RAY_AUTH_MODE=disabled would turn that off), which is made here first, readable by this user alone: Ray itself
    would leave it readable by all. Workers do not get the driver's folders on their import
    path, where `datasets` may be ours: here by the job's configuration, on a cluster by a working folder of the scratch
    folder. Nodes of a cluster get this package too.

    Workers of a local Ray import the modules `preload` while the driver is still busy with its own start.

    Raises:
        InputError: there is no cluster at the address, it refuses the token, or its versions are others.
        Interrupted: Ray did not start in time; the machine is too busy.
    """
    found = LOCAL if address == LOCAL else find_cluster(address)
    with scratch_folder() as scratch, _environment(address, scratch):
        if address == LOCAL:
            _ensure_token()
        import ray

        options: dict[str, Any] = {"address": found, "log_to_driver": False, "logging_level": logging.ERROR}
        if address == LOCAL:
            options |= {
                "include_dashboard": False,
                "job_config": without_paths(),
                "_temp_dir": str(scratch / "ray"),
                "_system_config": preloading(preload),
            }
        elif "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a job has brought its own
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
        except Exception as error:  # a bare one: Ray gives its own processes 30 s to start
            raise Interrupted(f"Ray did not start: {one_line(error)} The same command tries again") from None
        try:
            yield RaySession(scratch, scales=address != LOCAL and autoscales())
        finally:
            leave_ray()


@contextmanager
def _environment(address: str, scratch: Path) -> Iterator[None]:
    """The environment that Ray and Tune read, while the context is held."""
    os.environ["TUNE_DISABLE_AUTO_INIT"] = "1"  # for good: see leave_ray
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
    """HOST:PORT of a cluster that answers and takes our token, asked within CONNECT_SECONDS: Ray would take minutes.

    Raises:
        InputError: no form of an address that a driver can use, nothing answers there, or it refuses the token.
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
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it once, when it is imported
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
                f"Ray at {found} refuses the token: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH must hold the one that "
                "the cluster was started with"
            ) from None
        raise InputError(
            f"no Ray cluster at {found} ({one_line(error.details() or error.code().name)}): name its head's own port, "
            "6379 by default, or start one with `ray start --head`"
        ) from None
    return found


def _ensure_token() -> None:
    """Make the user's Ray token if there is none; RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH name another one."""
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
