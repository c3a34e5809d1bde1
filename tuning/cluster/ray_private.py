"""What is private in Ray: each function names the public interface that is missing.

`tests/tuning/cluster/test_ray_private.py` fails in one sentence when a new version of Ray changes one of these.
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
    """One line about a version of Ray with which this module was not tested; None: it was."""
    if version.split(".")[:2] == TESTED.split("."):
        return None
    return f"Ray {version} was not tested with this proxytune, {TESTED} was: a study may fail to start there"


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to be taken away.

    Missing: `ray.nodes()` does not report the draining state.
    """
    from ray._private.state import state

    return set(state.get_draining_nodes())


def autoscales() -> bool:
    """Whether an autoscaler may add nodes to the cluster.

    Missing: a public call. Which nodes it may add is told nowhere: the GCS has a table for it that no autoscaler of Ray
    2.60 fills. The second version has a flag in the GCS. The first one reports its types of nodes; where it only looks
    on, each node is a type of its own, `node_` and its id.
    """
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental import internal_kv

    if internal_kv._internal_kv_get("__autoscaler_v2_enabled", namespace="__autoscaler") == b"1":
        return True
    status = json.loads(internal_kv._internal_kv_get(DEBUG_AUTOSCALING_STATUS) or b"{}")
    types = (status.get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not name.startswith("node_") for name in types)


def gcs_address(address: str) -> str:
    """HOST:PORT of the cluster that `auto`, or HOST:PORT, means on this machine.

    Missing: `ray.init` resolves `auto`, but only while it connects.

    Raises:
        ConnectionError: `auto`, and no cluster is running on this machine.
        OSError, ValueError: HOST:PORT cannot be resolved.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die

    return str(canonicalize_bootstrap_address_or_die(address))


def forget_ended_trials(scheduled: Any, most: int) -> None:
    """Once Tune knows `most` trials, drop those that have ended, but for the newest.

    Missing: Tune keeps each trial for as long as it runs, 36 KiB of memory each, and looks at all of them in every round.

    Args:
        scheduled: what Tune passes to a scheduler's methods as `tune_controller`.
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
    """End the workers that Tune keeps for a next trial, so that they save and free their slots for others.

    Missing: with `reuse_actors` Tune keeps one worker, in its slot, for as long as the search goes on.

    Args:
        scheduled: what Tune passes to a scheduler's methods as `tune_controller`.
    """
    tune = scheduled._tune_controller
    if not tune._actor_cache.total_max_objects and not tune._pending_trials:  # no trial waits for one of them
        tune._cleanup_cached_actors(force_all=True)


def never_wait_for_trials() -> None:
    """Let Tune's loop go on while no trial is out, as it does while one runs.

    Missing: a setting. Tune waits for the next trial up to 10 minutes at a time, and ends no worker meanwhile.
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
    """Keep a row in the cluster's key-value table, which all its drivers read; it ends with the cluster.

    Missing: a public call; a named actor would be a process on one of the nodes.
    """
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(name, row, overwrite=True, namespace=_ROWS)


def read_rows() -> dict[str, bytes]:
    """All rows by their names. Missing: as `put_row`."""
    from ray.experimental import internal_kv

    names = internal_kv._internal_kv_list(b"", namespace=_ROWS)
    found = {name.decode(): internal_kv._internal_kv_get(name, namespace=_ROWS) for name in names}
    return {name: row for name, row in found.items() if row is not None}


def delete_row(name: str) -> None:
    """Remove a row. Missing: as `put_row`."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(name, namespace=_ROWS)


def session_folder() -> Path:
    """Where Ray keeps sockets, logs and packages on this node, in a process that is connected.

    Missing: the runtime context does not name it.
    """
    from ray._private import worker

    node: Any = worker._global_node
    return Path(node.get_session_dir_path())


def ask_gcs(address: str, *, with_token: bool, timeout_seconds: float) -> None:
    """Ask the GCS for its cluster id, by this user's token or by none.

    Missing: `ray.init` takes 20 s to report a wrong token and never gives up on a port that is not a GCS.

    Raises:
        grpc.RpcError: nothing answers in time, or the token is refused (UNAUTHENTICATED).
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    channel = init_grpc_channel(address) if with_token else grpc.insecure_channel(address)
    try:
        gcs: Any = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]
        request = gcs_service_pb2.GetClusterIdRequest()  # type: ignore[attr-defined]
        gcs.GetClusterId(request, timeout=timeout_seconds)
    finally:
        channel.close()


def without_paths() -> Any:
    """A job's configuration with which Ray puts none of the driver's folders on its workers' import path.

    In the current folder `datasets` may be ours. Missing: a setting; Ray leaves the folders out only where a runtime
    environment names a working folder, and for that it starts another agent and each worker a second time.
    """
    from ray.job_config import JobConfig

    class WithoutPaths(JobConfig):  # type: ignore[misc, unused-ignore]
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return WithoutPaths()


_IDLE_PROCESSES = ("start_monitor", "start_api_server", "start_log_monitor")


@contextmanager
def without_idle_processes() -> Iterator[None]:
    """While it is held, a Ray that this process starts has no autoscaler, no dashboard and no reader of logs.

    A Ray of one node, without a dashboard, that prints no worker's output, needs none of the three Python processes. The
    dashboard's agent, which must be there, opens no port 52365 then, which a second Ray on the machine would wait 3 s for.
    Missing: settings; with `include_dashboard=False` Ray starts the dashboard's process all the same, and waits for it.
    """
    from ray._private import utils
    from ray._private.node import Node

    replaced: list[tuple[Any, str, Any]] = [(Node, name, _nothing) for name in _IDLE_PROCESSES]
    replaced.append((utils, "get_dashboard_dependency_error", lambda: ImportError("no dashboard is wanted")))
    with _instead(replaced):
        yield


@contextmanager
def keeping_sigterm() -> Iterator[None]:
    """While it is held, Ray leaves SIGTERM to this process; its own handlers end a driver with code 1 or 15.

    Missing: a setting; `ray.init` replaces the handler twice.
    """
    from ray._private import utils

    with _instead([(utils, "set_sigterm_handler", _nothing)]):
        yield


def _nothing(*_: Any, **__: Any) -> None:
    """In place of what Ray would do."""


@contextmanager
def _instead(replaced: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Put the third of each in place of the attribute that the second names of the first, while it is held."""
    before = [getattr(owner, name) for owner, name, _ in replaced]
    for owner, name, instead in replaced:
        setattr(owner, name, instead)
    try:
        yield
    finally:
        for (owner, name, _), original in zip(replaced, before, strict=True):
            setattr(owner, name, original)


def use_waiting_workers() -> None:
    """Let Tune run trials in the workers that Ray started beforehand; those of a local Ray have imported their modules.

    Missing: a setting; Tune gives every trial an environment of its own (a variable for PyTorch Lightning), for which Ray
    starts another worker, and the first ones are never used.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()


def preloading(modules: Sequence[str]) -> dict[str, Any]:
    """Ray's system configuration by which its workers import the modules as they start, before they are needed.

    Half as many workers as cores start at once, so that the first trial need not wait for all of them to be ready.
    Missing: an option of `ray.init` for it; `worker_process_setup_hook` starts each worker a second time.
    """
    at_once = max(1, (os.cpu_count() or 1) // 2)
    return {"preload_python_modules": list(modules), "worker_maximum_startup_concurrency": at_once}


def never_connect_by_itself() -> None:
    """Make a Ray call without a connection an error instead of the start of a local cluster, in this process.

    Missing: RAY_ENABLE_AUTO_CONNECT is read once, when Ray is first imported.
    """
    from ray._private import auto_init_hook

    auto_init_hook.enable_auto_connect = False
