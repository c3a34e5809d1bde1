"""A study over the whole of compose.yaml: started, its worker and head stopped in the middle, finished. Prints JSON.

unshare --net --mount --pid --fork --mount-proc --kill-child python stack.py COMPOSE_FILE PACKAGE POSTGRES_BIN WORK
"""

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from containers import Compose, Container, run

STUDY = """
name: stack
task: {name: listops-mini, train_examples: 512}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}
training: {steps: 1500, warmup_steps: 6, batch_size: 8, learning_rate: 1e-3, eval_every: 300}
search:
  space:
    model.num_proxies: {choice: [2, 4, 8]}
    model.dropout: {low: 0.0, high: 0.3}
  stopping: {name: none}
  trials: 4
tracking: {uri: "http://mlflow:5000"}
storage: /studies
database: postgresql+psycopg://proxytune@postgres/proxytune
"""


def status(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def until(stack: "Stack", true: Callable[[], bool], seconds: float) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, stack.tails()
        stack.compose.restart_ended()
        time.sleep(0.5)
    return round(time.monotonic() - began, 1)


class Stack:
    def __init__(self, file: Path, package: Path, postgres: Path, work: Path) -> None:
        self.work, self.secrets = work, file.parent / "secrets"
        self.compose = Compose(file, package, postgres, work)
        run("mkdir", "-p", "/opt/proxytune")
        run("mount", "--bind", package, "/opt/proxytune")
        # The loopback ports that compose.yaml publishes, for the client outside.
        self.at = {name: self.compose.addresses[name] for name in ("mlflow", "ray-head", "serve")}
        self.services: dict[str, Container] = {}

    def up(self, name: str, seconds: float = 600) -> float:
        began = time.monotonic()
        self.services[name] = self.compose.container(name).start()
        self.services[name].wait_healthy(seconds)
        return round(time.monotonic() - began, 1)

    def tails(self) -> str:
        return "\n".join(service.tail() for service in self.services.values())

    def token(self, who: str) -> str:
        text = (self.secrets / "service-token" / "token").read_text()
        return re.search(rf"^{who}:(.*)$", text, re.MULTILINE)[1]  # type: ignore[index]

    def client(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The command line as a user has it, outside the containers."""
        environment = {
            "PATH": "/opt/proxytune/bin:/usr/bin:/bin",
            "HOME": str(self.work),
            "RAY_AUTH_TOKEN_PATH": str(self.secrets / "ray-token" / "auth_token"),
        }
        return subprocess.run(
            ["/opt/proxytune/bin/proxytune", *arguments],
            env=environment,
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def submit(self) -> None:
        done = self.client("submit", "stack.yaml", "--address", f"http://{self.at['ray-head']}:8265")
        assert done.returncode == 0, done.stderr + self.tails()

    def get(self, path: str, who: str = "admin") -> Any:
        url = f"http://{self.at['serve']}:8642{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.token(who)}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def events(self, kind: str) -> list[dict[str, Any]]:
        journal = self.work / "volumes" / "studies" / "stack" / "outbox" / "events.jsonl"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == kind]


def main(stack: Stack) -> dict[str, Any]:
    facts: dict[str, Any] = {"seconds_until_healthy": {}}
    for name in stack.compose.services:
        facts["seconds_until_healthy"][name] = stack.up(name)
    mlflow, head, serve = (f"http://{stack.at[name]}" for name in ("mlflow", "ray-head", "serve"))
    search = f"{mlflow}:5000/api/2.0/mlflow/experiments/search?max_results=1"
    account = (stack.secrets / "mlflow-client" / "credentials").read_text().split()
    basic = "Basic " + base64.b64encode(f"{account[3]}:{account[6]}".encode()).decode()
    ray = (stack.secrets / "ray-token" / "auth_token").read_text()
    facts["asked_from_outside"] = {
        "MLflow without account": status(search, Host="mlflow:5000"),
        "MLflow with account": status(search, Host="mlflow:5000", Authorization=basic),
        "MLflow, host evil": status(search, Host="evil", Authorization=basic),
        "MLflow, host 192.168.0.9": status(search, Host="192.168.0.9", Authorization=basic),
        "Ray jobs without token": status(f"{head}:8265/api/jobs/"),
        "Ray jobs with a wrong token": status(f"{head}:8265/api/jobs/", Authorization="Bearer " + "0" * 64),
        "Ray jobs with token": status(f"{head}:8265/api/jobs/", Authorization=f"Bearer {ray}"),
        "service without token": status(f"{serve}:8642/v1/studies"),
        "service with token": status(
            f"{serve}:8642/v1/studies", Authorization=f"Bearer {stack.token('admin')}"
        ),
        "service metrics without token": status(f"{serve}:8642/metrics"),
    }

    (stack.work / "stack.yaml").write_text(STUDY)
    stack.submit()
    until(stack, lambda: len(stack.events("report")) >= 2, 240)

    before = {path: path.stat().st_mtime for path in checkpoints(stack)}
    code, seconds = stack.services["ray-worker"].stop()
    after = checkpoints(stack)
    facts["worker_stopped"] = {"code": code, "seconds": round(seconds, 1)}
    facts["worker_stopped"]["checkpoints_written"] = len([path for path in after if path not in before])
    stack.up("ray-worker")
    reports = len(stack.events("report"))
    facts["seconds_until_the_next_report"] = until(stack, lambda: len(stack.events("report")) > reports, 240)

    code, seconds = stack.services["ray-head"].stop()
    facts["head_stopped"] = {"code": code, "seconds": round(seconds, 1)}
    facts["trials_handed_back"] = len(
        [event for event in stack.events("end") if event["outcome"] == "interrupted"]
    )
    stack.services["ray-worker"].stop()
    stack.up("ray-head")
    stack.up("ray-worker")
    stack.submit()

    def outcomes() -> dict[str, int]:
        return dict(json.loads(stack.get("/v1/studies/stack"))["outcomes"])

    facts["seconds_until_finished"] = until(stack, lambda: outcomes() == {"complete": 4}, 400)
    steps = [(event["trial"], event["step"]) for event in stack.events("report")]
    facts["reports"] = {"all": len(steps), "distinct": len(set(steps))}
    metrics = stack.get("/metrics", "prometheus")
    facts["metrics"] = 'proxytune_trials{outcome="complete",study="stack"} 4.0' in metrics

    def waiting() -> bool:
        return 'proxytune_outbox_events_waiting{study="stack"} 0.0' in stack.get("/metrics", "prometheus")

    until(stack, waiting, 120)
    request = urllib.request.Request(
        f"{mlflow}:5000/api/2.0/mlflow/runs/search",
        data=json.dumps({"experiment_ids": ["1"], "max_results": 100}).encode(),
        headers={"Host": "mlflow:5000", "Authorization": basic, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        runs = json.load(answer)["runs"]
    facts["mlflow_runs"] = sorted(run["info"]["status"] for run in runs)

    words = re.findall(
        r"[0-9a-f]{64}", "".join(p.read_text() for p in stack.secrets.rglob("*") if p.is_file())
    )
    places = {str(path): path.read_text(errors="replace") for path in stack.work.glob("*.log")}
    for path in (stack.work / "volumes" / "studies").rglob("*"):
        if path.is_file() and path.stat().st_size < 10_000_000:
            places[str(path)] = path.read_bytes().decode(errors="replace")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            places[str(path)] = path.read_text(errors="replace")
        except OSError:
            continue
    facts["secrets_seen_in"] = [name for name, text in places.items() if any(word in text for word in words)]
    facts["places_searched"] = len(places)
    facts["restarts"] = {name: service.restarts for name, service in stack.services.items()}
    facts["stopped"] = {
        name: stack.services[name].stop()[0]
        for name in ("serve", "ray-worker", "ray-head", "mlflow", "postgres")
    }
    return facts


def checkpoints(stack: Stack) -> list[Path]:
    return sorted((stack.work / "volumes" / "studies" / "stack" / "trials").glob("*/step-*"))


if __name__ == "__main__":
    os.umask(0o022)
    print(json.dumps(main(Stack(*map(Path, sys.argv[1:]))), indent=2))
