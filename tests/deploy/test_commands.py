"""The commands in deploy/ exist and accept their flags; the scripts leave-node, ray-node, spot-notice and answers."""

import http.server
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

BIN = Path(sys.executable).parent
IN_OTHER_IMAGES = {"pg_isready"}  # in the image of PostgreSQL


def split_shell(command: list[str]) -> list[list[str]]:
    """The command, or the commands in the script of `sh -c`."""
    if command[:2] != ["sh", "-c"]:
        return [command]
    script = command[2].replace("$$", "$")
    words = [shlex.split(part) for part in re.split(r"[|;]|&&", script)]
    return [
        [word for word in part if not re.match(r"[A-Z_]+=", word) and word != "exec"]
        for part in words
        if part and part[0] != "printf"
    ]


def commands_in_manifest(value: Any) -> Iterator[list[str]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            if key == "command":
                yield from split_shell(entry)
            elif key == "entrypoint":
                yield shlex.split(entry)
            elif key == "rayStartParams":
                yield ["ray", "start", *(f"--{name}" for name in entry)]
            else:
                yield from commands_in_manifest(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from commands_in_manifest(entry)


def deploy_commands(deploy: Path) -> Iterator[list[str]]:
    """The commands of Compose file, manifests, cluster launcher and README, split into words."""
    for service in yaml.safe_load((deploy / "compose.yaml").read_text())["services"].values():
        yield from split_shell(service["command"]) if "command" in service else []
        yield service["healthcheck"]["test"][1:]
    for path in sorted((deploy / "kuberay").rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            for document in yaml.safe_load_all(path.read_text()):
                yield from commands_in_manifest(document)
    cluster = yaml.safe_load((deploy / "aws" / "cluster.yaml").read_text())
    for line in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]:
        yield shlex.split(line.removeprefix("nohup ").partition(" >")[0])
    for block in re.findall(r"```sh\n(.*?)```", (deploy / "README.md").read_text(), re.DOTALL):
        for line in block.splitlines():
            words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
            if words[0] in ("proxytune", "ray"):
                yield words


@pytest.fixture(scope="module")
def options_of_verb() -> dict[str, list[str]]:
    """The options of every verb of the installed mlflow, ray and proxytune; keys such as "ray start"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        programs = {
            "mlflow": importlib.import_module("mlflow.cli").cli,
            "ray": importlib.import_module("ray.scripts.scripts").cli,
            "proxytune": importlib.import_module("proxytune.tuning.cli").cli,
        }
    options = {}
    for name, program in programs.items():
        assert (BIN / name).exists()
        context = click.Context(program)
        for verb in program.list_commands(context):
            params = program.get_command(context, verb).params
            options[f"{name} {verb}"] = [
                option for param in params for option in (*param.opts, *param.secondary_opts)
            ]
    return options


def test_deploy_commands_exist_and_accept_their_flags(
    deploy: Path, options_of_verb: dict[str, list[str]]
) -> None:
    seen = set()
    for words in deploy_commands(deploy):
        program = words[0]
        seen.add(program)
        if program in IN_OTHER_IMAGES:
            continue
        if (deploy / program).exists():
            assert f"deploy/{program}" in (deploy / "Dockerfile").read_text()
            if program != "ray-node":
                continue
            words = ["ray", "start", *words[1:], "--disable-usage-stats", "--block"]  # what the script runs
        flags = {word.partition("=")[0] for word in words if word.startswith("-")}
        if program == "wget":
            help_text = subprocess.run(["wget", "--help"], capture_output=True, text=True, check=True).stdout
            options = re.findall(r"--[\w-]+", help_text)
        else:
            options = options_of_verb[f"{words[0]} {words[1]}"]
        assert flags <= set(options), words
    assert seen >= {"ray-node", "mlflow", "proxytune", "answers", "leave-node", "ray", "wget", "spot-notice"}


def test_misspelled_flag_is_not_among_the_options(options_of_verb: dict[str, list[str]]) -> None:
    assert "--token-file" in options_of_verb["proxytune serve"]
    assert "--tokenfile" not in options_of_verb["proxytune serve"]


def start_in_pid_namespace(*command: object, **environment: str) -> "subprocess.Popen[str]":
    """Start a command in a new PID namespace, as in a container, so that it cannot see or signal other processes."""
    if os.getuid() != 0:
        pytest.skip("namespaces require root")
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
# A trial's worker with Ray's process title, a driver, and two other processes whose command lines contain these names.
bash -c 'exec -a "ray::TrialTrainable.train()" sh -c "trap \\"echo checkpoint >trial; exit 0\\" TERM; touch up1; while :; do sleep 0.05; done"' &
python3 "$1/proxytune" run study.yaml &
PYTHONPATH="$1/package" python3 -P -m proxytune.tuning run study.yaml --address auto &
sh -c 'trap "touch wrong" TERM; touch up3; while :; do sleep 0.05; done # ray::TrialTrainable' &
sh -c 'trap "touch wrong" TERM; touch up4; while :; do sleep 0.05; done' /usr/bin/python /bin/proxytune run study.yaml &
while [ ! -e up1 ] || [ ! -e up2 ] || [ ! -e up3 ] || [ ! -e up4 ] || [ ! -e up5 ]; do sleep 0.05; done
"$2" 20 || exit 1
cat trial driver submitted
[ ! -e wrong ]
"""


@pytest.fixture
def path_with_failing_ray(tmp_path: Path) -> str:
    """A PATH whose `ray` records its arguments and fails, as on a node whose Ray has died."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ray").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/ray\nexit 1\n')
    (folder / "ray").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_leave_node_terminates_only_trials_and_drivers_and_waits(
    deploy: Path, tmp_path: Path, path_with_failing_ray: str
) -> None:
    (tmp_path / "proxytune").write_text(DRIVER)
    submitted = tmp_path / "package" / "proxytune" / "tuning" / "__main__.py"
    submitted.parent.mkdir(parents=True)
    submitted.write_text(
        DRIVER.replace("up2", "up5").replace('"driver"', '"submitted"').replace('"saved"', '" saved"')
    )
    process = start_in_pid_namespace(
        "bash", "-c", NODE, "node", tmp_path, deploy / "leave-node", PATH=path_with_failing_ray
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.split() == ["checkpoint", "saved", "saved"]
    assert "did not accept the drain request" in err
    assert "drain-node --reason DRAIN_NODE_REASON_PREEMPTION" in (tmp_path / "ray").read_text()
    assert "--deadline-remaining-seconds 20" in (tmp_path / "ray").read_text()


def test_leave_node_reports_a_trial_that_runs_past_the_deadline(
    deploy: Path, tmp_path: Path, path_with_failing_ray: str
) -> None:
    script = 'bash -c \'exec -a "ray::TrialTrainable" sh -c "trap : TERM; touch $1/up; while :; do sleep 0.05; done"\' x "$1" & while [ ! -e "$1/up" ]; do sleep 0.05; done; "$2" 1'
    process = start_in_pid_namespace(
        "bash", "-c", script, "node", tmp_path, deploy / "leave-node", PATH=path_with_failing_ray
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "still running after 1 s" in err


def test_ray_node_runs_leave_node_on_sigterm_before_ray_ends(deploy: Path, tmp_path: Path) -> None:
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


class MetadataService(http.server.BaseHTTPRequestHandler):
    """EC2's instance metadata; from the second request on, a spot interruption notice is pending."""

    tokens: list[str]

    def do_PUT(self) -> None:
        self._respond(200, b"metadata-token")

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("X-aws-ec2-metadata-token", ""))
        pending = len(self.tokens) > 1
        self._respond(200 if pending else 404, b'{"action": "terminate"}')

    def _respond(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_spot_notice_runs_leave_node_when_a_notice_is_pending(deploy: Path, tmp_path: Path) -> None:
    MetadataService.tokens = []
    (tmp_path / "leave-node").write_text(f'#!/bin/sh\necho "leave $@" >{tmp_path}/log\n')
    (tmp_path / "leave-node").chmod(0o755)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), MetadataService) as server:
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
    assert MetadataService.tokens == ["metadata-token", "metadata-token"]
    assert (tmp_path / "log").read_text() == "leave 100\n"


@pytest.mark.parametrize(("status", "code"), [(200, 0), (500, 1), (401, 1)])
def test_answers_authenticates_and_succeeds_only_with_status_200(
    deploy: Path, tmp_path: Path, status: int, code: int
) -> None:
    authorizations = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            authorizations.append(self.headers.get("Authorization"))
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
    assert authorizations == ["Basic YWRtaW46YSViOmM="]
    assert code == 0 or url in done.stderr
