"""The Dockerfile, the scripts, the file of Ray's cluster launcher and the generated secrets."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

BIN = Path(sys.executable).parent
SCRIPTS = ("leave-node", "ray-node", "spot-notice", "secrets.sh", "kuberay/postgres-init.sh")


def test_dockerfile_passes_hadolint(deploy: Path) -> None:
    done = subprocess.run(
        [BIN / "hadolint", deploy / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_shell_scripts_are_executable_and_pass_shellcheck(deploy: Path) -> None:
    paths = [deploy / name for name in SCRIPTS]
    assert all(os.access(path, os.X_OK) for path in paths)
    done = subprocess.run([BIN / "shellcheck", *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def stages(dockerfile: str) -> list[str]:
    return re.split(r"^(?=FROM )", dockerfile, flags=re.MULTILINE)[1:]


def test_image_contains_no_source_and_runs_as_an_unprivileged_user(deploy: Path) -> None:
    build, final = stages((deploy / "Dockerfile").read_text())
    assert "pip wheel" in build
    assert build.count("--constraint constraints.txt") == 2
    assert re.findall(r"^COPY (.*)$", final, re.MULTILINE) == [
        "--from=build /opt/proxytune /opt/proxytune",
        "--chmod=0755 deploy/leave-node deploy/ray-node deploy/spot-notice deploy/answers /usr/local/bin/",
    ]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "RAY_AUTH_MODE=token" in final
    extras = re.search(r"whl\)\[([\w,-]+)\]", build)[1].split(",")  # type: ignore[index]
    project = tomllib.loads((deploy.parent / "pyproject.toml").read_text())["project"]
    assert set(extras) <= project["optional-dependencies"].keys()


def test_build_context_contains_only_what_the_dockerfile_copies(deploy: Path) -> None:
    lines = (deploy / "Dockerfile.dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        word
        for line in re.findall(r"^COPY (.*)$", (deploy / "Dockerfile").read_text(), re.MULTILINE)
        if "--from" not in line
        for word in line.split()[:-1]
        if not word.startswith("--")
    }
    assert allowed == copied
    for name in copied:
        assert (deploy.parent / name).exists(), name


def test_launcher_file_matches_rays_schema_and_uses_spot_workers(deploy: Path) -> None:
    import ray

    cluster = yaml.safe_load((deploy / "aws" / "cluster.yaml").read_text())
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"max_worker": 8}, schema)
    head, worker = (cluster["available_node_types"][name] for name in ("head", "gpu_spot"))
    assert cluster["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    assert not any("ray stop" in command for command in commands)
    for source in cluster["file_mounts"].values():
        assert source.startswith("deploy/secrets/")
    assert "/run/ray-token" in cluster["file_mounts"]
    assert "--env=RAY_AUTH_TOKEN_PATH=/run/ray-token/auth_token" in cluster["docker"]["run_options"]


def test_secrets_are_private_and_never_overwritten(deploy: Path, tmp_path: Path) -> None:
    shutil.copy(deploy / "secrets.sh", tmp_path)
    done = subprocess.run([tmp_path / "secrets.sh"], capture_output=True, text=True, check=True)
    folder = tmp_path / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert files.pop(".gitignore") == "*\n"
    assert len(files) == 8
    secrets = [secret for text in files.values() for secret in re.findall(r"[0-9a-f]{64}", text)]
    # Eight secrets in nine places: the password of MLflow's admin is stored for the server and for the client.
    assert len(secrets) == 9
    assert len(set(secrets)) == 8
    assert not any(secret in done.stdout for secret in secrets)
    again = subprocess.run([tmp_path / "secrets.sh"], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "is not overwritten" in again.stderr
    assert {name: (folder / name).read_text() for name in files} == files

    from proxytune.tuning.service.auth import read_tokens

    with pytest.warns(UserWarning, match="every user"):  # readable by every user; a container has only one
        tokens = read_tokens(folder / "service-token" / "token")
    assert {name: token.scope for name, token in tokens.items()} == {
        "admin": "submit",
        "prometheus": "metrics",
    }
