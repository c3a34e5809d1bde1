"""Conformance of a real server to its OpenAPI document, by schemathesis with positive and negative data."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from proxytune.tuning.commands.serve import serve as serve_command
from proxytune.tuning.service.submission import EXAMPLE
from tests.tuning.service.conftest import TOKEN, Driver

CONFIG = """
color = false
continue-on-failure = true
seed = 0
request-timeout = 60.0
max-stream-events = 50
[parameters]
"path.name" = {name}
[checks]
unsupported_method.enabled = true
{checks}
"""
# Rejections that a schema cannot express: inconsistent keys of a study (422), unknown studies and trials (404), and a
# server without a cluster (409).
RULES = """
positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]
"""
NEVER_SUCCESSFUL = {
    *("POST /v1/studies", "POST /v1/studies/{name}/resume", "POST /v1/studies/{name}/confirm"),
    *("GET /v1/studies/{name}/confirmation", "POST /v1/studies/{name}/enqueue", "GET /openapi.json"),
}
"""Operations without a successful request: they need a cluster, a confirmed study, or a configuration in the study's
space; schemathesis reads the document before it records requests.
"""


def fuzz(url: str, folder: Path, examples: int, *options: str, name: str | None = None) -> Counter[str]:
    """Run schemathesis against a server and return the number of requests with status 2xx per operation.

    Fails with the output of schemathesis if any of its checks fails.
    """
    folder.mkdir()
    config = CONFIG.format(name=json.dumps(name), checks=RULES)
    if name is None:
        config = config.replace('[parameters]\n"path.name" = null\n', "")
    (folder / "schemathesis.toml").write_text(config)
    done = subprocess.run(
        [
            *(
                str(Path(sys.executable).parent / "schemathesis"),
                "--config-file",
                str(folder / "schemathesis.toml"),
            ),
            *("run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"),
            *("--max-examples", str(examples), "--mode", "all", "--generation-database", "none"),
            *("--report", "har", "--report-har-path", "requests.har", *options),
        ],
        cwd=folder,
        env=os.environ | {"COLUMNS": "160", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-3000:]
    entries = json.loads((folder / "requests.har").read_text())["log"]["entries"]
    succeeded: Counter[str] = Counter()
    for entry in entries:
        path = httpx.URL(entry["request"]["url"]).path
        if name is not None:
            path = path.replace(f"/studies/{name}", "/studies/{name}")
        succeeded[f"{entry['request']['method']} {path}"] += 200 <= entry["response"]["status"] < 300
    succeeded["requests"] = len(entries)
    return succeeded


@pytest.fixture
def guarded(serve: Callable[..., str], make_spec, tokens) -> str:
    """A server that requires a token, with a study that has the name in the document's examples."""
    driver = Driver(make_spec("name=listops-mini", "search.stopping.name=none"))
    driver.trial(30, "complete", val_accuracy=0.5)
    driver.trial(20, "diverged", val_accuracy=0.1, val_loss=float("nan"))
    driver.end()
    return serve(tokens=tokens, requests_per_minute=10**7)


def check_that_operations_succeed(url: str, succeeded: Counter[str]) -> None:
    """A service that rejects every request would also conform to its document."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    document = httpx.get(f"{url}/openapi.json", headers=headers, timeout=300).json()
    operations = {
        f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods
    }
    failed = {operation for operation in operations if not succeeded[operation] and "export" not in operation}
    assert failed == NEVER_SUCCESSFUL


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_few_requests_per_operation_conform_to_the_document(guarded, tmp_path, record_property) -> None:
    phases = ("--exclude-path-regex", "export", "--phases", "examples,coverage,fuzzing")
    succeeded = fuzz(guarded, tmp_path / "fuzz", 3, *phases, name="listops-mini")
    record_property("requests of schemathesis", succeeded["requests"])
    check_that_operations_succeed(guarded, succeeded)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [None, "listops-mini"])
def test_many_requests_per_operation_conform_to_the_document(
    guarded, tmp_path, record_property, name
) -> None:
    succeeded = fuzz(guarded, tmp_path / "fuzz", 100, "--exclude-path-regex", "export", name=name)
    record_property(f"requests of schemathesis, {name or 'any'} study", succeeded["requests"])
    if name is not None:
        check_that_operations_succeed(guarded, succeeded)
    assert httpx.get(f"{guarded}/ready").status_code == 200


def test_document_is_complete_and_printed_by_the_command(guarded, capsys) -> None:
    document = httpx.get(f"{guarded}/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    serve_command.main(["--print-openapi", "--host", "0.0.0.0"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == document
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            assert "422" in operation["responses"] or not path.startswith("/v1")
            if path not in ("/health", "/ready"):
                assert operation["security"] == [{"HTTPBearer": []}]
    bodies = document["paths"]["/v1/studies"]["post"]["requestBody"]["content"]
    assert {kind: content["example"] for kind, content in bodies.items()} == {
        "application/json": EXAMPLE,
        "application/yaml": EXAMPLE,
    }
    assert "storage" not in document["components"]["schemas"]["StudySpec"]["properties"]
    text = json.dumps(document)
    for schema in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert schema in document["components"]["schemas"]
