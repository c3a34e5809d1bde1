"""compose.yaml without a container engine: each service in namespaces of its own, as its file says.

Run as root inside `unshare --net --mount --pid --fork --mount-proc --kill-child`, so that nothing outlives the test. A
service gets its own network address, a copy-on-write root made read-only, tmpfs, volumes, secrets, user, environment
and grace period as compose.yaml names them, all capabilities dropped. What a container has and this has not: cgroups,
seccomp, the base image (its root is this machine's), and for PostgreSQL the official image's entrypoint.

    python containers.py inside SPEC    (how a service is started; used by Container)
"""

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

IMAGE_ENVIRONMENT = {
    "PATH": "/opt/proxytune/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/home/proxytune",
    "PYTHONUNBUFFERED": "1",
    "PYTHONSAFEPATH": "1",
    "MPLCONFIGDIR": "/tmp/matplotlib",
    "PROXYTUNE_CACHE": "/cache",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""What the Dockerfile sets; a test holds the two together."""
POSTGRES = """
set -eu
initdb --pgdata="$PGDATA" --username=postgres --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS --auth-local=trust
echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
pg_ctl -D "$PGDATA" -w -o "-h '' -k /run/postgresql" start
PGHOST=/run/postgresql /docker-entrypoint-initdb.d/init.sh
pg_ctl -D "$PGDATA" -w -m fast stop
exec postgres -D "$PGDATA" -h '*' -k /run/postgresql
"""


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True)


class Compose:
    """The services of a compose file on one bridge. `package` is the environment that the image has at /opt/proxytune."""

    def __init__(self, file: Path, package: Path, postgres: Path, work: Path) -> None:
        self.file, self.package, self.postgres, self.work = file, package, postgres, work
        self.services: dict[str, Any] = yaml.safe_load(file.read_text())["services"]
        self.secrets: dict[str, Any] = yaml.safe_load(file.read_text())["secrets"]
        self.started: dict[str, Container] = {}
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(self.services, start=2)}
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "tmpfs", "tmpfs", "/run")  # for ip netns
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "compose", "type", "bridge")
        run("ip", "addr", "add", "10.77.0.1/24", "dev", "compose")
        run("ip", "link", "set", "compose", "up")
        # What lies beyond the bridge is unreachable at once, not after a time-out.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def container(self, name: str) -> "Container":
        self.started[name] = Container(self, name)
        return self.started[name]

    def restart_ended(self) -> None:
        for container in self.started.values():
            container.restart_if_ended()

    def description(self, name: str) -> dict[str, Any]:
        """Everything that the inside of a service needs to know."""
        service = self.services[name]
        user = service.get("user", "10001:10001").split(":")
        secrets = {
            entry["target"]: str(self.file.parent / self.secrets[entry["source"]]["file"])
            for entry in service["secrets"]
        }
        volumes = {}
        for entry in service.get("volumes", []):
            source, target = entry.split(":")[:2]
            volumes[target] = (
                str(self.file.parent / source)
                if source.startswith(".")
                else str(self.work / "volumes" / source)
            )
        # What Docker does with $$ in compose files.
        command = [word.replace("$$", "$") for word in service.get("command", [])]
        environment = IMAGE_ENVIRONMENT | service.get("environment", {})
        if name == "postgres":
            environment |= {
                "PATH": f"{self.postgres}:{environment['PATH']}",
                "HOME": "/tmp",
                "PGDATA": "/var/lib/postgresql/data/pgdata",
            }
            command = ["sh", "-c", POSTGRES]
        return {
            "name": name,
            "user": user,
            "command": command,
            "environment": environment,
            "secrets": secrets,
            "volumes": volumes,
            "tmpfs": service["tmpfs"],
            "shm": service.get("shm_size", "64m").removesuffix("b"),
            "hosts": self.addresses,
            "package": str(self.package),
            "python": str((self.package / "bin" / "python3").resolve()),
            "scripts": [str(self.file.parent / script) for script in ("leave-node", "ray-node", "answers")],
            "root": str(self.work / "roots" / name),
        }


class Container:
    """One service."""

    def __init__(self, compose: Compose, name: str) -> None:
        self.compose, self.name = compose, name
        self.service = compose.services[name]
        self.address = compose.addresses[name]
        self.log = compose.work / f"{name}.log"
        self.restarts = 0
        self._stopped = False
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Container":
        name = f"c{self.address.rpartition('.')[2]}"
        if not Path("/run/netns", name).exists():
            run("ip", "netns", "add", name)
            run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", name, "master", "compose", "up")
            run("ip", "-n", name, "addr", "add", f"{self.address}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "route", "add", "default", "via", "10.77.0.1")
        description = self.compose.work / f"{self.name}.json"
        description.write_text(json.dumps(self.compose.description(self.name)))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", name),
                    *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"),
                    *(sys.executable, __file__, "inside", description),
                ],
                stdout=log,
                stderr=log,
            )
        return self

    def healthy(self) -> bool:
        """Whether the service's own health check says so, run where Docker would run it."""
        return self.run(*self.service["healthcheck"]["test"][1:]).returncode == 0

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """A command in the running container, as its user (`docker compose exec`)."""
        description = self.compose.description(self.name)
        target = self._inner()
        if target is None:
            return subprocess.CompletedProcess(command, 125, "", "not started")
        return subprocess.run(
            [
                *("nsenter", f"--target={target}", "--mount", "--net", "--pid", "--root", "--wdns=/tmp"),
                *as_user(description["user"]),
                *("env", "-i", *(f"{key}={value}" for key, value in description["environment"].items())),
                *command,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def wait_healthy(self, seconds: float) -> None:
        """Until its health check passes; meanwhile restart policies hold, its own and those of what it needs."""
        deadline = time.monotonic() + seconds
        while not self.healthy():
            assert time.monotonic() < deadline, self.tail()
            self.compose.restart_ended()
            time.sleep(0.5)

    def restart_if_ended(self) -> None:
        """What `restart: unless-stopped` does."""
        assert self._process is not None
        if self._process.poll() is not None and not self._stopped:
            assert self.service["restart"] == "unless-stopped"
            self.restarts += 1
            assert self.restarts <= 5, self.tail()
            self.start()

    def stop(self) -> tuple[int, float]:
        """What `docker stop` does; the exit code, and the seconds it took."""
        assert self._process is not None
        began = time.monotonic()
        self._stopped = True
        init = self._children(self._process.pid)
        for pid in init:
            os.kill(pid, signal.SIGTERM)
        code = self._process.wait(float(self.service["stop_grace_period"].removesuffix("s")))
        return code, time.monotonic() - began

    def tail(self) -> str:
        return f"{self.name}: " + self.log.read_text(errors="replace")[-4000:]

    def _children(self, pid: int) -> list[int]:
        """The process that is number 1 inside (unshare, or ip before it, is its parent)."""
        try:
            found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        return [int(child) for child in found]

    def _inner(self) -> int | None:
        """The service's own process: its root is the container's."""
        assert self._process is not None
        for init in self._children(self._process.pid):
            for child in self._children(init):
                try:
                    if os.readlink(f"/proc/{child}/root") != "/":
                        return child
                except OSError:  # it has just ended: a mount of the laying out
                    continue
        return None


def as_user(user: list[str]) -> list[str]:
    return [
        *("setpriv", f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups"),
        *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
    ]


def inside(spec: dict[str, Any]) -> int:
    """Process number 1 of a service: lay out its root, then start and reap it (what `init: true` gives)."""
    root = Path(spec["root"])
    root.mkdir(parents=True, exist_ok=True)
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "tmpfs", root)
    upper, workdir, merged = (root / name for name in ("upper", "work", "merged"))
    for folder in (upper, workdir, merged):
        folder.mkdir()
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={workdir}", merged)

    def place(target: str) -> Path:
        return merged / target.lstrip("/")

    def bind(source: str, target: str, *options: str) -> None:
        there = place(target)
        if Path(source).is_dir():
            there.mkdir(parents=True, exist_ok=True)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.touch()
        run("mount", "--bind", *options, source, there)

    uid, gid = map(int, spec["user"])
    home = place("/home/proxytune")
    home.mkdir(parents=True, exist_ok=True)
    with place("/etc/passwd").open("a") as passwd:
        passwd.write("proxytune:x:10001:10001::/home/proxytune:/bin/sh\n")
        passwd.write("postgres:x:999:999::/tmp:/bin/sh\n")  # the postgres image's
    place("/etc/hosts").write_text(
        "127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in spec["hosts"].items())
    )
    place("/etc/resolv.conf").unlink(missing_ok=True)
    place("/etc/resolv.conf").write_text(
        "nameserver 127.0.0.1\n"
    )  # refuses at once, as no name server is here
    place("/docker-entrypoint-initdb.d").mkdir(exist_ok=True)
    for parent in Path(spec["python"]).parents[:-1]:  # it may lie in root's home, which is closed to others
        place(str(parent)).chmod(place(str(parent)).stat().st_mode | 0o011)
    bind(spec["package"], "/opt/proxytune", "-o", "ro")
    for script in spec["scripts"]:
        bind(script, f"/usr/local/bin/{Path(script).name}", "-o", "ro")
    run("mount", "-t", "tmpfs", "tmpfs", place("/run"))
    for target in spec["tmpfs"]:
        path, _, options = target.partition(":")
        place(path).mkdir(parents=True, exist_ok=True)
        run(
            "mount",
            "-t",
            "tmpfs",
            "tmpfs",
            place(path),
            *(("-o", options) if options else ("-o", "mode=1777")),
        )
    for target, source in spec["secrets"].items():
        bind(source, target, "-o", "ro")
    for target, source in spec["volumes"].items():
        if not Path(source).is_file():
            Path(source).mkdir(parents=True, exist_ok=True)
            os.chown(source, uid, gid)
        bind(source, target)
    run("mount", "-t", "proc", "proc", place("/proc"))
    run("mount", "--rbind", "/dev", place("/dev"))
    run("mount", "-t", "tmpfs", "tmpfs", place("/dev/shm"), "-o", f"mode=1777,size={spec['shm']}")
    run("mount", "-o", "remount,ro", merged)

    environment = {key: str(value) for key, value in spec["environment"].items()}
    child = os.fork()
    if child == 0:
        os.chroot(merged)
        os.chdir("/tmp")
        os.setsid()
        os.execvpe("setpriv", [*as_user(spec["user"]), *spec["command"]], environment)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while True:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        if pid == child:
            return os.waitstatus_to_exitcode(status) % 256


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no service outlives the test
    print("+", shlex.join(sys.argv[1:]), flush=True)
    sys.exit(inside(json.loads(Path(sys.argv[2]).read_text())))
