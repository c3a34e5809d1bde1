"""Every command that deploy/ runs exists, takes the flags that it is given there, and does what it is there for."""

import http.server
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

BIN = Path(sys.executable).parent
IN_OTHER_IMAGES = {"pg_isready"}  # postgres


def flatten(command: list[str]) -> list[list[str]]:
    """A command, or those inside `sh -c`."""
    if command[:2] != ["sh", "-c"]:
        return [command]
    script = command[2].replace("$$", "$")
    words = [shlex.split(part) for part in re.split(r"[|;]|&&", script)]
    return [
        [word for word in part if not re.match(r"[A-Z_]+=", word) and word != "exec"]
        for part in words
        if part and part[0] != "printf"
    ]


def commands(deploy: Path) -> Iterator[list[str]]:
    for service in yaml.safe_load((deploy / "compose.yaml").read_text())["services"].values():
        yield from flatten(service["command"]) if "command" in service else []
        yield service["healthcheck"]["test"][1:]

    def inside(value: Any) -> Iterator[list[str]]:
        if isinstance(value, dict):
            for key, entry in value.items():
                if key == "command":
                    yield from flatten(entry)
                elif key == "entrypoint":
                    yield shlex.split(entry)
                elif key == "rayStartParams":
                    yield ["ray", "start", *(f"--{name}" for name in entry)]
                else:
                    yield from inside(entry)
        elif isinstance(value, list):
            for entry in value:
                yield from inside(entry)

    for path in sorted((deploy / "kuberay").rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            for document in yaml.safe_load_all(path.read_text()):
                yield from inside(document)
    cluster = yaml.safe_load((deploy / "aws" / "cluster.yaml").read_text())
    for line in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]:
        yield shlex.split(line.removeprefix("nohup ").partition(" >")[0])
    for block in re.findall(r"```sh\n(.*?)```", (deploy / "README.md").read_text(), re.DOTALL):
        for line in block.splitlines():
            words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
            if words[0] in ("proxytune", "ray"):
                yield words


OPTIONS = """
import json, warnings
warnings.simplefilter("ignore")
import click, mlflow.cli, ray.scripts.scripts, proxytune.tuning.cli

def options(command):
    return [name for param in command.params for name in (*param.opts, *param.secondary_opts)]

programs = {"mlflow": mlflow.cli.cli, "ray": ray.scripts.scripts.cli, "proxytune": proxytune.tuning.cli.cli}
print(json.dumps({f"{name} {verb}": options(program.get_command(context, verb))
                  for name, program in programs.items() for context in [click.Context(program)]
                  for verb in program.list_commands(context)}))
"""


@pytest.fixture(scope="module")
def known() -> dict[str, list[str]]:
    """The options of every verb of the three programs, as they are installed."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", OPTIONS],
        capture_output=True,
        text=True,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        check=True,
    )
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    for name in ("mlflow", "ray", "proxytune"):
        assert (BIN / name).exists()
    return found


def test_every_command_exists_and_takes_its_flags(deploy: Path, known: dict[str, list[str]]) -> None:
    seen = set()
    for words in commands(deploy):
        program = words[0]
        seen.add(program)
        if program in IN_OTHER_IMAGES:
            continue
        if (deploy / program).exists():
            assert f"deploy/{program}" in (deploy / "Dockerfile").read_text()
            if program != "ray-node":
                continue
            words = ["ray", "start", *words[1:], "--disable-usage-stats", "--block"]  # as the script does
        flags = {word.partition("=")[0] for word in words if word.startswith("-")}
        if program == "wget":
            help_text = subprocess.run(["wget", "--help"], capture_output=True, text=True, check=True).stdout
            options = re.findall(r"--[\w-]+", help_text)
        else:
            options = known[f"{words[0]} {words[1]}"]
        assert flags <= set(options), words
    assert seen >= {"ray-node", "mlflow", "proxytune", "answers", "leave-node", "ray", "wget", "spot-notice"}


def test_a_misspelt_flag_would_be_seen(known: dict[str, list[str]]) -> None:
    assert "--token-file" in known["proxytune serve"]
    assert "--tokenfile" not in known["proxytune serve"]


def namespace(*command: object, **environment: str) -> "subprocess.Popen[str]":
    """A command as a container has it: in a PID namespace of its own, so that it sees and ends nothing of others."""
    if os.getuid() != 0:
        pytest.skip("namespaces need root")
    return subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *map(str, command)],
        env={"PATH": os.environ["PATH"]} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


DRIVER = """
import signal, sys, time
def end(*_):
    open("driver", "w").write("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
open("up2", "w")
while True:
    time.sleep(0.05)
"""
NODE = """
cd "$1"
# A trial's worker as Ray names it, a job's driver, and two that are neither but speak of them.
bash -c 'exec -a "ray::TrialTrainable.train()" sh -c "trap \\"echo checkpoint >trial; exit 0\\" TERM; touch up1; while :; do sleep 0.05; done"' &
python3 "$1/proxytune" run study.yaml &
sh -c 'trap "touch wrong" TERM; touch up3; while :; do sleep 0.05; done # ray::TrialTrainable' &
sh -c 'trap "touch wrong" TERM; touch up4; while :; do sleep 0.05; done' /usr/bin/python /bin/proxytune run study.yaml &
while [ ! -e up1 ] || [ ! -e up2 ] || [ ! -e up3 ] || [ ! -e up4 ]; do sleep 0.05; done
"$2" 20 || exit 1
cat trial driver
[ ! -e wrong ]
"""


@pytest.fixture
def without_ray(tmp_path: Path) -> str:
    """A PATH where `ray` notes what it is asked and refuses, as on a node whose Ray has died."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ray").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/ray\nexit 1\n')
    (folder / "ray").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_a_leaving_node_lets_trials_and_drivers_write_and_no_other(
    deploy: Path, tmp_path: Path, without_ray: str
) -> None:
    (tmp_path / "proxytune").write_text(DRIVER)
    process = namespace("bash", "-c", NODE, "node", tmp_path, deploy / "leave-node", PATH=without_ray)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.split() == ["checkpoint", "saved"]
    assert "did not accept the drain request" in err
    assert "drain-node --reason DRAIN_NODE_REASON_PREEMPTION" in (tmp_path / "ray").read_text()
    assert "--deadline-remaining-seconds 20" in (tmp_path / "ray").read_text()


def test_a_trial_that_does_not_leave_is_waited_for_and_named(
    deploy: Path, tmp_path: Path, without_ray: str
) -> None:
    script = 'bash -c \'exec -a "ray::TrialTrainable" sh -c "trap : TERM; touch $1/up; while :; do sleep 0.05; done"\' x "$1" & while [ ! -e "$1/up" ]; do sleep 0.05; done; "$2" 1'
    process = namespace("bash", "-c", script, "node", tmp_path, deploy / "leave-node", PATH=without_ray)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "still running after 1 s" in err


def test_ray_node_lets_the_node_leave_before_ray_ends(deploy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ray").write_text(f'#!/bin/sh\necho "ray $@" >>{tmp_path}/log\nexec sleep 60\n')
    (folder / "leave-node").write_text(f'#!/bin/sh\necho "leave $@" >>{tmp_path}/log\n')
    for program in folder.iterdir():
        program.chmod(0o755)
    process = subprocess.Popen(
        [deploy / "ray-node", "--head", "--num-cpus=0"], env={"PATH": f"{folder}:{os.environ['PATH']}"}
    )
    log = tmp_path / "log"
    deadline = time.monotonic() + 300
    while not log.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 0
    assert log.read_text().splitlines() == [
        "ray start --head --num-cpus=0 --disable-usage-stats --block",
        "leave 120",
    ]


class Metadata(http.server.BaseHTTPRequestHandler):
    """What an EC2 instance can ask, of which a notice is pending from the second time on."""

    asked: list[str]

    def do_PUT(self) -> None:
        self._answer(200, b"metadata-token")

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("X-aws-ec2-metadata-token", ""))
        pending = len(self.asked) > 1
        self._answer(200 if pending else 404, b'{"action": "terminate"}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_spot_notice_makes_the_node_leave(deploy: Path, tmp_path: Path) -> None:
    Metadata.asked = []
    (tmp_path / "leave-node").write_text(f'#!/bin/sh\necho "leave $@" >{tmp_path}/log\n')
    (tmp_path / "leave-node").chmod(0o755)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            subprocess.run(
                [deploy / "spot-notice"],
                env={
                    "PATH": f"{tmp_path}:{os.environ['PATH']}",
                    "METADATA": f"http://127.0.0.1:{server.server_address[1]}",
                    "INTERVAL": "0.1",
                },
                check=True,
                timeout=300,
            )
        finally:
            server.shutdown()
    assert Metadata.asked == ["metadata-token", "metadata-token"]
    assert (tmp_path / "log").read_text() == "leave 100\n"


@pytest.mark.parametrize(("status", "code"), [(200, 0), (500, 1), (401, 1)])
def test_answers_is_well_only_at_200_and_signs_in(
    deploy: Path, tmp_path: Path, status: int, code: int
) -> None:
    seen = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = a%b:c\n"
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/x"
        try:
            done = subprocess.run(
                [sys.executable, "-P", deploy / "answers", url],
                env={"HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            server.shutdown()
    assert done.returncode == code
    assert seen == ["Basic YWRtaW46YSViOmM="]
    assert code == 0 or url in done.stderr
