"""Uses of Ray's private interfaces; each function names the public interface that is missing.

`tests/tuning/cluster/test_ray_private.py` fails with a one-line message when a new version of Ray changes one of these.
"""

import functools
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTED = "2.60"


def untested(version: str) -> str | None:
    """A one-line warning about a version of Ray that this module was not tested with; None if it was."""
    if version.split(".")[:2] == TESTED.split("."):
        return None
    return f"Ray {version} was not tested with this proxytune (tested: Ray {TESTED}); a study may fail to start there"


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to be removed.

    Missing: `ray.nodes()` does not report the draining state.
    """
    from ray._private.state import state

    return set(state.get_draining_nodes())


def autoscales() -> bool:
    """Whether an autoscaler may add nodes to the cluster.

    Missing: a public call. The nodes that it may add are not available: the GCS has a table for them that no autoscaler
    of Ray 2.60 fills. Autoscaler v2 sets a flag in the GCS. Version 1 reports its node types; if it only monitors the
    cluster, each node has its own type, named `node_` and its id.
    """
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental import internal_kv

    if internal_kv._internal_kv_get("__autoscaler_v2_enabled", namespace="__autoscaler") == b"1":
        return True
    status = json.loads(internal_kv._internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
    types = (status.get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not name.startswith("node_") for name in types)


def gcs_address(address: str) -> str:
    """HOST:PORT of the cluster that `auto` or HOST:PORT resolves to on this machine.

    Missing: `ray.init` resolves `auto`, but only while it connects.

    Raises:
        ConnectionError: `auto`, and no cluster is running on this machine.
        OSError, ValueError: HOST:PORT cannot be resolved.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die

    return str(canonicalize_bootstrap_address_or_die(address))


def forget_ended_trials(scheduled: Any, most: int) -> None:
    """Once Tune holds `most` trials, remove the ended trials except the newest trial.

    Missing: Tune keeps every trial until it exits, 36 KiB of memory each, and iterates over all of them in every round.

    Args:
        scheduled: the `tune_controller` argument of a scheduler's methods.
    """
    known = scheduled.get_trials()
    if len(known) < most:
        return
    tune = scheduled._tune_controller
    ended = tune._stopped_trials | tune._failed_trials
    ended -= {known[-1]} | tune._live_trials | tune._trial_to_actor.keys()
    for trials in (tune._stopped_trials, tune._failed_trials, tune._trials_to_cache):
        trials -= ended
    known[:] = [trial for trial in known if trial not in ended]


def end_waiting_workers(scheduled: Any) -> None:
    """End the workers that Tune keeps for the next trial, so that they save and release their slots.

    Missing: with `reuse_actors` Tune keeps one worker in its slot until the search ends.

    Args:
        scheduled: the `tune_controller` argument of a scheduler's methods.
    """
    tune = scheduled._tune_controller
    if not tune._actor_cache.total_max_objects and not tune._pending_trials:  # no trial waits for a worker
        tune._cleanup_cached_actors(force_all=True)


def never_wait_for_trials() -> None:
    """Keep Tune's loop running while no trial runs.

    Missing: a setting. Tune blocks up to 10 minutes at a time for the next trial, and ends no worker meanwhile.
    """
    from ray.tune.execution.tune_controller import TuneController

    wait: Any = TuneController._update_trial_queue

    @functools.wraps(wait)
    def ask(tune: TuneController, blocking: bool = False, timeout: float = 0.0) -> bool:
        added = bool(wait(tune))
        if blocking and not added:
            time.sleep(0.2)
        return added

    if not hasattr(wait, "__wrapped__"):
        setattr(TuneController, "_update_trial_queue", ask)  # noqa: B010


_ROWS = b"proxytune"


def put_row(name: str, row: bytes) -> None:
    """Write a row to the cluster's key-value table, which all drivers read; the table is lost with the cluster.

    Missing: a public call; a named actor would be an additional process on one of the nodes.
    """
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(name, row, overwrite=True, namespace=_ROWS)


def read_rows() -> dict[str, bytes]:
    """All rows by name. Missing: as for `put_row`."""
    from ray.experimental import internal_kv

    names = internal_kv._internal_kv_list(b"", namespace=_ROWS)
    found = {name.decode(): internal_kv._internal_kv_get(name, namespace=_ROWS) for name in names}
    return {name: row for name, row in found.items() if row is not None}


def delete_row(name: str) -> None:
    """Remove a row. Missing: as for `put_row`."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(name, namespace=_ROWS)


def session_folder() -> Path:
    """The folder of Ray's sockets, logs and packages on this node; requires a connection.

    Missing: the runtime context does not report it.
    """
    from ray._private import worker

    node: Any = worker._global_node
    return Path(node.get_session_dir_path())


def ask_gcs(address: str, *, with_token: bool, timeout_seconds: float) -> None:
    """Request the cluster id from the GCS, with this user's token or without a token.

    Missing: `ray.init` takes 20 s to report a wrong token and never gives up on a port that is not a GCS.

    Raises:
        grpc.RpcError: there is no response in time, or the token is rejected (UNAUTHENTICATED).
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    channel = init_grpc_channel(address) if with_token else grpc.insecure_channel(address)
    try:
        gcs: Any = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        request = gcs_service_pb2.GetClusterIdRequest()  # type: ignore[attr-defined]
        gcs.GetClusterId(request, timeout=timeout_seconds)
    finally:
        channel.close()


def without_paths() -> Any:
    """A job configuration with which Ray does not add the driver's folders to its workers' import path.

    The current folder may contain this repository's `datasets`. Missing: a setting; Ray omits the folders only if the
    runtime environment has a working folder, for which it starts another agent and starts each worker twice.
    """
    from ray.job_config import JobConfig

    class WithoutPaths(JobConfig):  # type: ignore[misc, unused-ignore]
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return WithoutPaths()


_IDLE_PROCESSES = ("start_monitor", "start_api_server", "start_log_monitor")


@contextmanager
def without_idle_processes() -> Iterator[None]:
    """Within this context, a Ray started by this process has no autoscaler, dashboard or log monitor.

    A single-node Ray without a dashboard that prints no worker output does not need these three Python processes. The
    dashboard's agent, which is required, then does not open port 52365; a second Ray on the machine would wait 3 s for it.
    Missing: settings; with `include_dashboard=False` Ray still starts the dashboard's process and waits for it.
    """
    from ray._private import utils
    from ray._private.node import Node

    replaced: list[tuple[Any, str, Any]] = [(Node, name, _nothing) for name in _IDLE_PROCESSES]
    replaced.append((utils, "get_dashboard_dependency_error", lambda: ImportError("no dashboard is wanted")))
    with _patched(replaced):
        yield


@contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Within this context, Ray does not replace the SIGTERM handler; its own handlers exit with code 1 or 15.

    Missing: a setting; `ray.init` replaces the handler twice.
    """
    from ray._private import utils

    with _patched([(utils, "set_sigterm_handler", _nothing)]):
        yield


def _nothing(*_: Any, **__: Any) -> None:
    """Replaces a function of Ray that must do nothing."""


@contextmanager
def _patched(replaced: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Replace attributes, given as (owner, name, value), within this context."""
    before = [getattr(owner, name) for owner, name, _ in replaced]
    for owner, name, value in replaced:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), original in zip(replaced, before, strict=True):
            setattr(owner, name, original)


def use_waiting_workers() -> None:
    """Let Tune run trials in the workers that Ray has prestarted; with a local Ray they have imported their modules.

    Missing: a setting; Tune gives every trial its own environment (a variable for PyTorch Lightning), for which Ray
    starts another worker, and the prestarted workers are never used.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()


def preloading(modules: Sequence[str]) -> dict[str, Any]:
    """Ray's system configuration that makes workers import the modules when they start.

    At most half as many workers as cores start at once, so that the first trial does not wait for all of them.
    Missing: an option of `ray.init`; `worker_process_setup_hook` starts each worker twice.
    """
    at_once = max(1, (os.cpu_count() or 1) // 2)
    return {"preload_python_modules": list(modules), "worker_maximum_startup_concurrency": at_once}


def never_connect_by_itself() -> None:
    """Make a Ray call without a connection raise instead of starting a local cluster, in this process.

    Missing: RAY_ENABLE_AUTO_CONNECT is read once, when Ray is first imported.
    """
    from ray._private import auto_init_hook

    auto_init_hook.enable_auto_connect = False
