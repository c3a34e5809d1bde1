"""Detects that Ray has died while a driver uses it.

Ray's calls do not detect it: without the raylet they wait without limit; without the GCS they wait for a minute and then
end the process without raising in Python. The driver therefore checks whether both still accept connections.
"""

import atexit
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from proxytune.tuning.cluster.ray_private import never_connect_by_itself

PROBE_SECONDS = 1.0
LOCAL_GRACE_SECONDS = 3.0
CLUSTER_GRACE_SECONDS = 40.0
"""How long a cluster's GCS may not respond (it may be restarting); after 60 s Ray would end the process."""
SHUTDOWN_SECONDS = 10.0


@contextmanager
def watch_ray(on_death: Callable[[str], None], *, local: bool) -> Iterator[None]:
    """Within this context, call `on_death` once, from a thread, with a message if the GCS or the raylet has died."""
    import ray

    context = ray.get_runtime_context()
    nodes = ray.nodes()
    node = next(node for node in nodes if node["NodeID"] == context.get_node_id())
    host, _, port = context.gcs_address.rpartition(":")
    addresses = {
        "GCS": (host, int(port)),
        "raylet": (node["NodeManagerAddress"], int(node["NodeManagerPort"])),
    }
    grace = LOCAL_GRACE_SECONDS if local else CLUSTER_GRACE_SECONDS
    over = threading.Event()

    def probe() -> None:
        answered = dict.fromkeys(addresses, time.monotonic())
        while not over.wait(PROBE_SECONDS):
            for name, address in addresses.items():
                if _answers(address):
                    answered[name] = time.monotonic()
                elif time.monotonic() - answered[name] > grace:
                    on_death(f"Ray's {name} at {address[0]}:{address[1]} has died")
                    return

    thread = threading.Thread(target=probe, name="ray watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def leave_ray() -> None:
    """Call `ray.shutdown` with a limit of SHUTDOWN_SECONDS, because it waits without limit if Ray has died.

    Ray's automatic start is disabled first: a search still running in its thread would start another Ray.
    """
    import ray

    never_connect_by_itself()
    ending = threading.Thread(target=ray.shutdown, name="ray shutdown", daemon=True)
    ending.start()
    ending.join(SHUTDOWN_SECONDS)
    if ending.is_alive():
        atexit.unregister(ray.shutdown)  # it would block at exit


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True
