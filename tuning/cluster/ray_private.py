"""What is private in Ray: each function names the public interface that is missing.

`tests/tuning/cluster/test_ray_private.py` fails in one sentence when a new version of Ray changes one of these.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to be taken away.

    Missing: `ray.nodes()` does not report the draining state.
    """
    from ray._private.state import state

    return set(state.get_draining_nodes())


def autoscaler_groups() -> list[tuple[int, dict[str, float]]]:
    """Of each group of nodes that the autoscaler may start: the most nodes (negative: no limit), their resources.

    Missing: no public call returns the cluster configuration that the autoscaler reports.
    """
    from ray._private.state import state

    config = state.get_cluster_config()
    groups = config.node_group_configs if config is not None else ()
    return [(int(group.max_count), dict(group.resources)) for group in groups]


def gcs_address(address: str) -> str:
    """HOST:PORT of the cluster that `auto`, or HOST:PORT, means on this machine.

    Missing: `ray.init` resolves `auto`, but only while it connects.

    Raises:
        ConnectionError: `auto`, and no cluster is running on this machine.
        OSError, ValueError: HOST:PORT cannot be resolved.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die

    return str(canonicalize_bootstrap_address_or_die(address))


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

    A Ray of one node, without a dashboard, that prints no worker's output, needs none of the three Python processes.
    Missing: settings; with `include_dashboard=False` Ray starts the dashboard's process all the same, and waits for it.
    """
    from ray._private.node import Node

    before = {name: getattr(Node, name) for name in _IDLE_PROCESSES}
    for name in _IDLE_PROCESSES:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, start in before.items():
            setattr(Node, name, start)


def preloading(modules: Sequence[str]) -> dict[str, Any]:
    """Ray's system configuration by which its workers import the modules as they start, before they are needed.

    Missing: an option of `ray.init` for it; `worker_process_setup_hook` starts each worker a second time.
    """
    return {"preload_python_modules": list(modules)}


def never_connect_by_itself() -> None:
    """Make a Ray call without a connection an error instead of the start of a local cluster, in this process.

    Missing: RAY_ENABLE_AUTO_CONNECT is read once, when Ray is first imported.
    """
    from ray._private import auto_init_hook

    auto_init_hook.enable_auto_connect = False
