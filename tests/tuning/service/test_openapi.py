"""The service against its own OpenAPI document: schemathesis, positive and negative data, a real server."""

import json
import os
import re
import subprocess
import sys
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
# What a schema cannot say (how the keys of a study fit together, which trials a study has): 422, and 409 without a cluster.
RULES = """
positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422", "415", "400"]
"""


def fuzz(url: str, folder: Path, examples: int, *options: str, name: str | None = None) -> dict[str, int]:
    """Run schemathesis against a server; the counts it prints. Fails with its output if any check failed."""
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
            *("--max-examples", str(examples), "--mode", "all", "--generation-database", "none", *options),
        ],
        cwd=folder,
        env=os.environ | {"COLUMNS": "160", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-3000:]
    (folder / "output.txt").write_text(done.stdout)
    found = re.search(r"Test cases:\n.*?(\d+) generated(?:, (\d+) .*?skipped)?", done.stdout, re.DOTALL)
    assert found, done.stdout[-3000:]
    return {"cases": int(found[1])}


@pytest.fixture
def guarded(serve: Callable[..., str], make_spec, tokens) -> str:
    """A server that asks for a token, over a study of the name that the document's examples use."""
    driver = Driver(make_spec("name=listops-mini", "search.stopping.name=none"))
    driver.trial(30, "complete", val_accuracy=0.5)
    driver.trial(20, "diverged", val_accuracy=0.1, val_loss=float("nan"))
    driver.end()
    return serve(tokens=tokens, requests_per_minute=10**7)


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_few_requests_of_each_kind_get_what_the_document_says(guarded, tmp_path, record_property) -> None:
    counts = fuzz(
        guarded,
        tmp_path / "fuzz",
        3,
        "--exclude-path-regex",
        "export",
        "--phases",
        "examples,coverage,fuzzing",
    )
    record_property("schemathesis cases", counts["cases"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [None, "listops-mini"])
def test_many_requests_of_each_kind_get_what_the_document_says(
    guarded, tmp_path, record_property, name
) -> None:
    counts = fuzz(guarded, tmp_path / "fuzz", 100, "--exclude-path-regex", "export", name=name)
    record_property(f"schemathesis cases, {name or 'any'} study", counts["cases"])
    assert httpx.get(f"{guarded}/ready").status_code == 200


def test_the_document_is_complete_and_is_printed(guarded, capsys) -> None:
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
