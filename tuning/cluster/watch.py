"""Notice that Ray has died under a driver.

Ray's own calls do not: without its raylet they wait for ever, without its GCS they wait for a minute and then end the
process without a word to Python. So the driver looks for itself whether both still take connections.
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
"""How long a cluster's GCS may be away (it may be restarting); after 60 s Ray would end the process."""
SHUTDOWN_SECONDS = 10.0


@contextmanager
def watch_ray(on_death: Callable[[str], None], *, local: bool) -> Iterator[None]:
    """Call `on_death` with what does not answer any more, once and from a thread, while the context is held."""
    import ray

    context = ray.get_runtime_context()
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
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
    """`ray.shutdown`, which waits for ever on a Ray that has died: after SHUTDOWN_SECONDS it is given up.

    A search that still runs in its thread would start another Ray here by its next call: Ray's default.
    """
    import ray

    never_connect_by_itself()
    ending = threading.Thread(target=ray.shutdown, name="ray shutdown", daemon=True)
    ending.start()
    ending.join(SHUTDOWN_SECONDS)
    if ending.is_alive():
        atexit.unregister(ray.shutdown)  # it would wait once more


def _answers(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True
