"""A real Ray cluster on this machine: one `ray start --block` per node, as in containers. Processes are ended by pid."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

TOKEN = "token-of-the-test-cluster-0123456789abcdef"


def free_port() -> int:
    """A free port outside 10002-19999, where Ray's workers listen."""
    while True:
        port = random.randint(20000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port


@dataclass
class Node:
    """The `ray start` process of a node, and its log."""

    process: "subprocess.Popen[bytes]"
    log: Path
    id: str = ""

    def tree(self) -> list[psutil.Process]:
        try:
            parent = psutil.Process(self.process.pid)
            return [*parent.children(recursive=True), parent]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """Kill all processes of the node, as a power failure does."""
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(300)

    def terminate(self) -> None:
        """Send SIGTERM to the first process only, as Kubernetes does when a pod ends."""
        self.process.send_signal(signal.SIGTERM)


class RayCluster:
    """A head and workers with their own token, ports and folder."""

    def __init__(
        self,
        cpus: int = 1,
        environment: Mapping[str, str] | None = None,
        scaled: Mapping[str, Any] | None = None,
    ) -> None:
        """scaled: `resources` and `max_workers` of a node type that Ray's fake autoscaler starts on this machine."""
        self.folder = Path(
            tempfile.mkdtemp(prefix="rt-", dir="/tmp")
        )  # a short path, since it contains Ray's sockets
        self.port, self.dashboard_port, self._client_port = free_port(), free_port(), free_port()
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_agent_register_timeout_ms": "120000",
            "RAY_memory_monitor_refresh_ms": "0",  # other processes' memory must not matter
            "OMP_NUM_THREADS": "1",
            "PYTHONSAFEPATH": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self._environment = dict(environment or {})
        self.nodes: list[Node] = []
        self._cpus = cpus
        self._scaled = scaled
        self.head = self.start_head()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start_head(self) -> Node:
        """Start the head and wait until its dashboard responds."""
        options = [
            *("--head", f"--port={self.port}", f"--temp-dir={self.folder / 'head'}"),
            *(f"--dashboard-port={self.dashboard_port}", f"--ray-client-server-port={self._client_port}"),
        ]
        environment = self._environment
        if self._scaled is not None:
            options.append(f"--autoscaling-config={self._autoscaling(self._scaled)}")
            environment = environment | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        node = self._start("head", self._cpus, options, environment, self._dashboard_answers)
        (node.id,) = self.alive()
        return node

    def _autoscaling(self, scaled: Mapping[str, Any]) -> Path:
        """Write the file that ray.cluster_utils.AutoscalingCluster writes; that class stops every other Ray on the machine."""
        head = {"resources": {"CPU": self._cpus}, "node_config": {}, "max_workers": 0}
        worker = {"node_config": {}, "min_workers": 0} | dict(scaled)
        config = {
            "cluster_name": "fake",
            "max_workers": worker["max_workers"],
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {"ray.head.default": head, "worker": worker},
            "head_node_type": "ray.head.default",
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 10,
            "auth": {},
            "docker": {},
            "file_mounts": {},
            **dict.fromkeys(("initialization_commands", "setup_commands", "head_setup_commands"), ()),
            **dict.fromkeys(("worker_setup_commands", "head_start_ray_commands"), ()),
            **dict.fromkeys(("worker_start_ray_commands", "cluster_synced_files", "rsync_exclude"), ()),
        }
        path = self.folder / "autoscaling.json"
        path.write_text(json.dumps(config))
        return path

    def add(
        self, name: str, cpus: int = 1, gpus: int = 0, environment: Mapping[str, str] | None = None
    ) -> Node:
        """Start a worker node with its own folder and wait until the cluster lists it."""
        before = self.alive()
        options = [f"--address={self.address}", f"--num-gpus={gpus}", f"--temp-dir={self.folder / name}"]
        node = self._start(name, cpus, options, environment or {}, lambda: self.alive() - before)
        (node.id,) = self.alive() - before
        return node

    def alive(self) -> set[str]:
        """The ids of the nodes that are alive."""
        return {node["node_id"] for node in self.state("nodes") if node["state"] == "ALIVE"}

    def state(self, what: str) -> list[dict]:
        """Rows of the dashboard's state API, for example of `nodes` or `tasks`."""
        request = urllib.request.Request(
            f"{self.dashboard}/api/v0/{what}?limit=1000", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=300) as answer:
            return list(json.load(answer)["data"]["result"]["result"])

    def drain(self, node: Node, seconds: int) -> None:
        """Announce to Ray that the node will be removed, as a spot notice does."""
        subprocess.run(
            [
                *(sys.executable, "-P", "-m", "ray.scripts.scripts", "drain-node", "--address", self.address),
                *("--node-id", node.id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
                *("--reason-message", "spot", "--deadline-remaining-seconds", str(seconds)),
            ],
            env=os.environ | self.environment,
            check=True,
            capture_output=True,
        )

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(
        self,
        name: str,
        cpus: int,
        options: list[str],
        environment: Mapping[str, str],
        ready: Callable[[], object],
    ) -> Node:
        """Start a node and wait until it is ready; retried, since Ray gives up after 15 s on a slow machine."""
        for attempt in range(6):
            log = self.folder / f"{name}-{attempt}.log"
            command = [
                *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block", *options),
                *(f"--num-cpus={cpus}", "--object-store-memory=80000000", "--disable-usage-stats"),
                *("--min-worker-port=0", "--max-worker-port=0"),
                f"--dashboard-agent-listen-port={free_port()}",
                f"--dashboard-agent-grpc-port={free_port()}",
                f"--runtime-env-agent-port={free_port()}",
                f"--metrics-export-port={free_port()}",
            ]
            with log.open("wb") as file:
                process = subprocess.Popen(
                    command,
                    stdout=file,
                    stderr=file,
                    env=os.environ | self.environment | environment,
                    cwd=self.folder,
                    start_new_session=True,
                )
            node = Node(process, log)
            self.nodes.append(node)
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                if ready():
                    return node
                time.sleep(0.2)
            node.kill()
        raise AssertionError(node.log.read_text()[-3000:])

    def _dashboard_answers(self) -> bool:
        try:
            return bool(self.alive())
        except (OSError, KeyError, ValueError):
            return False
