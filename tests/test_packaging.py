"""The distribution: it contains all packages, imports stay light, and the wheel works outside the repository."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

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


FORBIDDEN_LIBRARIES = {
    "proxytune.tuning": {"ray", "mlflow", "optuna", "torch"},
    "proxytune.tuning.cli": {"ray", "mlflow"},
    "proxytune.datasets": {"ray", "mlflow", "optuna"},
    "proxytune.models": {"ray", "mlflow", "optuna"},
    "proxytune.models.exported": {"ray", "mlflow", "optuna"},
    "proxytune.tuning.cluster.trainable": {"mlflow", "optuna"},
}
"""Libraries that importing a module must not load; earlier modules load none that a later one must not load."""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """The top-level packages loaded after importing each module, in order in one process; the last is the bridge."""
    modules = [*FORBIDDEN_LIBRARIES, "proxytune.tuning.cluster.bridge"]
    # Without garbage collection, imports take three quarters of the time.
    script = (
        "import gc, importlib, sys\n"
        "gc.disable()\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *modules], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    return {
        module: {name.partition(".")[0] for name in line.split()}
        for module, line in zip(modules, lines, strict=True)
    }


@pytest.mark.parametrize("module", FORBIDDEN_LIBRARIES)
def test_import_does_not_load_heavy_libraries(loaded: dict[str, set[str]], module: str) -> None:
    assert not loaded[module] & FORBIDDEN_LIBRARIES[module]


def test_probe_of_loaded_libraries_reports_those_of_the_bridge(loaded: dict[str, set[str]]) -> None:
    assert {"ray", "optuna", "torch"} <= loaded["proxytune.tuning.cluster.bridge"]


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
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-P", "-m", "pip", "--python", str(python)]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", str(wheel)], check=True, capture_output=True)
    # Use the dependencies of this environment, after the new environment's packages and without the editable install.
    env = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    import_all = f"import {', '.join(PROJECT['tool']['setuptools']['packages'])}"
    imported = subprocess.run(
        [python, "-P", "-c", f"{import_all}; print(proxytune.tuning.__file__)"],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert imported.stdout.startswith(str(tmp_path / "venv"))
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
