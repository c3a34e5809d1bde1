"""The distribution: what is on disk is in it, importing stays light, a wheel works away from the repository."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_every_folder_with_code_is_a_package_of_the_distribution() -> None:
    folders = {
        "proxytune." + ".".join(path.parent.relative_to(REPOSITORY).parts)
        for room in ("datasets", "models", "tuning")
        for path in (REPOSITORY / room).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert folders == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == PROJECT["project"]["version"]


def loaded_by(*modules: str) -> list[set[str]]:
    """What one process has loaded after it imported each of the modules, one after another."""
    script = "import sys, importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *modules], capture_output=True, text=True, check=True
    )
    return [{name.partition(".")[0] for name in line.split()} for line in done.stdout.splitlines()]


def test_importing_stays_light() -> None:
    """In an order in which no module loads what a later one must not."""
    must_not_load = {
        "proxytune.tuning": {"ray", "mlflow", "optuna", "torch"},
        "proxytune.datasets": {"ray", "mlflow", "optuna"},
        "proxytune.models": {"ray", "mlflow", "optuna"},
        "proxytune.models.exported": {"ray", "mlflow", "optuna"},
        "proxytune.tuning.cli": {"ray", "mlflow"},
    }
    for (module, heavy), loaded in zip(must_not_load.items(), loaded_by(*must_not_load), strict=True):
        assert not loaded & heavy, module


def test_a_trial_s_process_stays_light_and_the_probe_sees_what_is_loaded() -> None:
    light, heavy = loaded_by("proxytune.tuning.cluster.trainable", "proxytune.tuning.cluster.bridge")
    assert not light & {"mlflow", "optuna"}
    assert {"ray", "optuna"} <= heavy


def test_a_wheel_in_an_empty_environment_checks_a_shipped_study(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-P",
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(REPOSITORY),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True, capture_output=True
    )
    # The dependencies of this environment, behind the empty one's own packages; its editable install stays out.
    env = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    where = subprocess.run(
        [python, "-P", "-c", "import proxytune.tuning.cli as m; print(m.__file__)"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(tmp_path / "empty"))
    checked = subprocess.run(
        [tmp_path / "empty" / "bin" / "proxytune", "check", "listops"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "num_proxies" in checked.stdout
    job = subprocess.run(
        [tmp_path / "empty" / "bin" / "proxytune", "slurm", "listops", "--storage", "/shared"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"PYTHON={python}\n" in job.stdout
    everything = f"import {', '.join(PROJECT['tool']['setuptools']['packages'])}"
    subprocess.run([python, "-P", "-c", everything], env=env, cwd=tmp_path, check=True)
