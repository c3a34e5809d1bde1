"""deploy/compose.yaml: schema, published ports, rights, secrets, health checks and MLflow's settings."""

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
    document: Compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    return document


def validate(compose: Compose) -> None:
    schemas = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    jsonschema.validate(compose, json.loads((schemas / "compose-spec.json").read_text()))


def test_file_matches_the_compose_schema_which_rejects_a_misspelled_key(compose: Compose) -> None:
    validate(compose)
    misspelled = compose | {"services": compose["services"] | {"serve": {"comand": "true"}}}
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        validate(misspelled)


def test_ports_are_published_on_loopback_only(compose: Compose) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert sorted(ports) == ["127.0.0.1:5000:5000", "127.0.0.1:8265:8265", "127.0.0.1:8642:8642"]
    # One network only, since Ray uses the address of the default route.
    assert "networks" not in compose


def test_services_run_read_only_without_capabilities(compose: Compose) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "network_mode", "pid", "devices"} & service.keys(), name
        assert any(entry.startswith("/tmp") for entry in service["tmpfs"]), name


def test_secrets_are_passed_only_as_files(compose: Compose, deploy: Path) -> None:
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
    # Only the database's server gets its superuser's password, only MLflow's server its signing key.
    sources = {
        name: {entry["source"] for entry in service["secrets"]}
        for name, service in compose["services"].items()
    }
    assert [name for name in sources if "postgres" in sources[name]] == ["postgres"]
    assert [name for name in sources if "mlflow-key" in sources[name]] == ["mlflow"]


def test_services_have_a_health_check_and_a_stop_grace_period(compose: Compose, deploy: Path) -> None:
    for name, service in compose["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert re.fullmatch(r"\d+s", service["stop_grace_period"]), name
        for dependency, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}, (name, dependency)
    match = re.search(r"LEAVE_SECONDS:-(\d+)", (deploy / "ray-node").read_text())
    assert match is not None
    for name in ("ray-head", "ray-worker"):
        assert int(compose["services"][name]["stop_grace_period"][:-1]) >= int(match[1]) + 30
        assert compose["services"][name]["command"][0] == "ray-node"


def test_mlflow_requires_authentication_and_an_allowed_host(compose: Compose) -> None:
    command = compose["services"]["mlflow"]["command"][-1]
    assert "--app-name basic-auth" in command
    hosts = re.search(r"--allowed-hosts (\S+)", command)[1].split(",")  # type: ignore[index]
    assert "mlflow:5000" in hosts
    assert not any("*" in host for host in hosts)
    assert "--x-frame-options DENY" in command
    environment = compose["services"]["mlflow"]["environment"]
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_mlflow_environment_variables_exist(compose: Compose, deploy: Path) -> None:
    """MLflow silently ignores a misspelled variable."""
    from mlflow import environment_variables

    service = compose["services"]["mlflow"]
    texts = [*service["environment"], *service["command"], (deploy / "Dockerfile").read_text()]
    names = {name for text in texts for name in re.findall(r"\bMLFLOW_[A-Z_]+", text)}
    assert len(names) >= 4
    for name in names:
        assert hasattr(environment_variables, name), name
