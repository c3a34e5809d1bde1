"""The distribution: it contains all packages, imports stay light, and the wheel works outside the repository."""

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


def test_pyproject_lists_every_folder_that_contains_modules() -> None:
    folders = {
        "proxytune." + ".".join(path.parent.relative_to(REPOSITORY).parts)
        for room in ("datasets", "models", "tuning")
        for path in (REPOSITORY / room).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    assert folders == set(PROJECT["tool"]["setuptools"]["packages"])


def test_changelog_starts_with_the_version_of_the_project() -> None:
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == PROJECT["project"]["version"]


def loaded_by(*modules: str) -> list[set[str]]:
    """Import the modules in order in one new process; returns the top-level packages loaded after each import."""
    script = "import sys, importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *modules], capture_output=True, text=True, check=True
    )
    return [{name.partition(".")[0] for name in line.split()} for line in done.stdout.splitlines()]


def test_imports_do_not_load_heavy_libraries() -> None:
    """The modules are ordered so that an earlier one loads no library that a later one must not load."""
    forbidden_libraries = {
        "proxytune.tuning": {"ray", "mlflow", "optuna", "torch"},
        "proxytune.datasets": {"ray", "mlflow", "optuna"},
        "proxytune.models": {"ray", "mlflow", "optuna"},
        "proxytune.models.exported": {"ray", "mlflow", "optuna"},
        "proxytune.tuning.cli": {"ray", "mlflow"},
    }
    loaded = loaded_by(*forbidden_libraries)
    for (module, forbidden), libraries in zip(forbidden_libraries.items(), loaded, strict=True):
        assert not libraries & forbidden, module


def test_trainable_does_not_load_mlflow_or_optuna_and_bridge_does() -> None:
    """The second module shows that `loaded_by` reports a library that is loaded."""
    trainable, bridge = loaded_by("proxytune.tuning.cluster.trainable", "proxytune.tuning.cluster.bridge")
    assert not trainable & {"mlflow", "optuna"}
    assert {"ray", "optuna"} <= bridge


def test_wheel_in_a_new_environment_checks_a_shipped_study(tmp_path: Path) -> None:
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
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True, capture_output=True
    )
    # Use the dependencies of this environment, after the new environment's packages and without the editable install.
    env = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    cli_path = subprocess.run(
        [python, "-P", "-c", "import proxytune.tuning.cli as m; print(m.__file__)"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert cli_path.stdout.startswith(str(tmp_path / "venv"))
    checked = subprocess.run(
        [tmp_path / "venv" / "bin" / "proxytune", "check", "listops"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "num_proxies" in checked.stdout
    job = subprocess.run(
        [tmp_path / "venv" / "bin" / "proxytune", "slurm", "listops", "--storage", "/shared"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"PYTHON={python}\n" in job.stdout
    import_all = f"import {', '.join(PROJECT['tool']['setuptools']['packages'])}"
    subprocess.run([python, "-P", "-c", import_all], env=env, cwd=tmp_path, check=True)
