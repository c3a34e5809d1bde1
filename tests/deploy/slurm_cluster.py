"""A Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd in one folder and one PID namespace.

`close` ends the namespace and thereby the daemons and all processes of the jobs, but no other process.
"""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until the credential of its last start expires, by default after 120 s.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
KillWait=30
OverTimeLimit=0
MinJobAge=3600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} Gres=gpu:2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""
GPUS = """
NodeName=n1 Name=gpu File={folder}/gpu[0-1]
NodeName=n2 Name=gpu File={folder}/gpu[2-3]
"""
DAEMONS = """
munged --foreground --force --key-file="$1/munge.key" --socket="$1/munge.socket" --pid-file="$1/munge.pid" \
    --log-file="$1/munge.log" --seed-file="$1/munge.seed" &
until [ -S "$1/munge.socket" ]; do sleep 0.1; done
slurmctld -D -c &
slurmd -D -N n1 &
slurmd -D -N n2 &
wait
"""


def missing_requirement() -> str | None:
    """Why a cluster cannot run on this machine, or None if it can."""
    if os.getuid() != 0:
        return "namespaces and slurmd require root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{', '.join(missing)} not found: see CONTRIBUTING.md" if missing else None


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class SlurmCluster:
    """Nodes n1 and n2. Each has this machine's cores and two GPUs, which are null devices."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "state").mkdir()
        for number in range(4):
            os.mknod(folder / f"gpu{number}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        host = subprocess.run(["hostname", "-s"], capture_output=True, text=True, check=True).stdout.strip()
        values = {"folder": folder, "host": host, "cpus": os.cpu_count(), "ports": free_ports(3)}
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
        (folder / "gres.conf").write_text(GPUS.format(**values))
        # A short path, since it contains Ray's sockets.
        self.scratch = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "TMPDIR": str(self.scratch)}
        with (folder / "daemons.log").open("wb") as log:
            self._namespace = subprocess.Popen(
                [
                    *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
                    *("sh", "-c", DAEMONS, "daemons", str(folder)),
                ],
                env={"PATH": os.environ["PATH"], **self.environment},
                stdout=log,
                stderr=log,
            )
        try:
            self.wait_until(
                lambda: self.run("sinfo", "--noheader", "--format=%D %t", check=False) == "2 idle", 60
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._namespace.send_signal(signal.SIGKILL)
        self._namespace.wait()
        shutil.rmtree(self.scratch)

    def with_environment(self, **environment: str) -> dict[str, str]:
        """The environment of a user of this cluster, with the given variables."""
        return os.environ | self.environment | environment

    def run(self, *command: object, check: bool = True, **environment: str) -> str:
        """Run one of Slurm's commands; returns its standard output."""
        done = subprocess.run(
            [*map(str, command)],
            cwd=self.folder,
            env=self.with_environment(**environment),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """A job's fields as slurmctld reports them: JobState, Restarts, Reason, ..."""
        text = self.run("scontrol", "--oneliner", "show", "job", number)
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def ended(self, number: str) -> bool:
        state = self.job(number)["JobState"]
        return state not in ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING")

    def wait_until(self, condition: Callable[[], Any], seconds: float = 900) -> None:
        """Wait until the condition is true; fail after `seconds` or if the daemons end."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self._namespace.poll() is None, self.logs()
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.3)

    def logs(self) -> str:
        """The last part of each daemon's log and of each job's output."""
        paths = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}" for path in paths)
