"""deploy/compose.yaml: its schema, and that it opens nothing and gives nothing away."""

import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

Compose = dict[str, Any]


@pytest.fixture(scope="module")
def compose(deploy: Path) -> Compose:
    found: Compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    return found


def check(compose: Compose) -> None:
    schemas = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    jsonschema.validate(compose, json.loads((schemas / "compose-spec.json").read_text()))


def test_it_fits_the_compose_specification(compose: Compose) -> None:
    check(compose)
    misspelt = compose | {"services": compose["services"] | {"serve": {"comand": "true"}}}
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        check(misspelt)


def test_ports_are_published_on_loopback_only(compose: Compose) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:5000:5000", "127.0.0.1:8265:8265", "127.0.0.1:8642:8642"]
    assert "networks" not in compose  # Ray takes the address of its default route: one network


def test_no_service_has_more_rights_than_it_needs(compose: Compose) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "network_mode", "pid", "devices"} & service.keys(), name
        assert any(entry.startswith("/tmp") for entry in service["tmpfs"]), name


def test_secrets_are_files_and_nowhere_else(compose: Compose, deploy: Path) -> None:
    script = (deploy / "secrets.sh").read_text()
    for name, secret in compose["secrets"].items():
        assert secret.keys() == {"file"}, name
        assert secret["file"].removeprefix("./secrets/") in script
    used = {entry["source"] for service in compose["services"].values() for entry in service["secrets"]}
    assert used == compose["secrets"].keys()
    for name, service in compose["services"].items():
        targets = {entry["target"] for entry in service["secrets"]}
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|TOKEN|SECRET|SERVICEFILE|CONFIG_PATH", key):
                assert value in targets, (name, key)
        words = json.dumps([service.get("command", []), service["healthcheck"]])
        assert not re.search(r"://[^/\s:@]*:[^/\s@]*@", words), name
        for path in re.findall(r"/run/secrets/[\w./-]+", words):
            assert path in targets, (name, path)
    # The database's superuser and MLflow's signing key are their own servers' business.
    assert [
        n for n, s in compose["services"].items() if "postgres" in {e["source"] for e in s["secrets"]}
    ] == ["postgres"]
    assert [
        n for n, s in compose["services"].items() if "mlflow-key" in {e["source"] for e in s["secrets"]}
    ] == ["mlflow"]


def test_every_service_says_whether_it_is_well_and_has_time_to_stop(compose: Compose) -> None:
    for name, service in compose["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert re.fullmatch(r"\d+s", service["stop_grace_period"]), name
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}, (name, other)
    leave = int(
        re.search(r"LEAVE_SECONDS:-(\d+)", (Path(__file__).parents[2] / "deploy" / "ray-node").read_text())[1]
    )  # type: ignore[index]
    for name in ("ray-head", "ray-worker"):
        assert int(compose["services"][name]["stop_grace_period"][:-1]) >= leave + 30
        assert compose["services"][name]["command"][0] == "ray-node"


def test_mlflow_checks_who_asks_and_under_which_name(compose: Compose) -> None:
    command = compose["services"]["mlflow"]["command"][-1]
    assert "--app-name basic-auth" in command
    hosts = re.search(r"--allowed-hosts (\S+)", command)[1].split(",")  # type: ignore[index]
    assert "mlflow:5000" in hosts
    assert not any("*" in host for host in hosts)
    assert "--x-frame-options DENY" in command
    environment = compose["services"]["mlflow"]["environment"]
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_mlflow_reads_the_environment_variables_that_it_is_given(compose: Compose, deploy: Path) -> None:
    """A misspelt one would be ignored without a word."""
    from mlflow import environment_variables

    service = compose["services"]["mlflow"]
    words = [*service["environment"], *service["command"], (deploy / "Dockerfile").read_text()]
    given = {name for text in words for name in re.findall(r"\bMLFLOW_[A-Z_]+", text)}
    assert len(given) >= 4
    for name in given:
        assert hasattr(environment_variables, name), name
