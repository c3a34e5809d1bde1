"""What each verb imports: the command line answers at once, since it loads only what the verb needs."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from proxytune.tuning import commands
from proxytune.tuning.cli import VERBS, cli, with_flags
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.yaml_file import as_yaml

HEAVY = (
    *(
        "matplotlib",
        "mlflow",
        "numpy",
        "optuna",
        "pandas",
        "plotly",
        "pyarrow",
        "pydantic",
        "ray",
        "sqlalchemy",
    ),
    "torch",
)
SCRIPT = """
import json, sys
from proxytune.tuning.cli import main
code = 0
try:
    main()
except SystemExit as error:
    code = error.code
print(json.dumps([code, [name for name in sys.argv[0].split(",") if name in sys.modules]]), file=sys.stderr)
"""


def loaded(*arguments: str, code: int = 0, **environment: str) -> set[str]:
    """The heavy packages that a verb imports."""
    script = f"import sys; sys.argv = [{','.join(HEAVY)!r}, *{list(arguments)!r}]\n{SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=os.environ | environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    found, names = json.loads(done.stderr.splitlines()[-1])
    assert (found or 0) == code, done.stderr
    return set(names)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], *([verb, "--help"] for verb in ("run", "show", "check"))]
)
def test_help_imports_no_heavy_packages(arguments: list[str]) -> None:
    assert loaded(*arguments) == set()


@pytest.mark.parametrize("words", ["proxytune ch", "proxytune run list", "proxytune run --set training.st"])
def test_completion_imports_no_heavy_packages(words: str) -> None:
    complete = {
        "_PROXYTUNE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    script = "import sys; sys.argv[0] = 'proxytune'; from proxytune.tuning.cli import cli\n"
    script += "try:\n    cli(prog_name='proxytune')\nfinally:\n"
    script += f"    print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env=os.environ | complete, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    expected = {"ch": "check", "list": "listops-mini", "st": "training.steps="}
    assert expected[words.split()[-1].rpartition(".")[2]] in done.stdout
    assert done.stderr.split() == []


def test_check_imports_neither_torch_nor_optuna(make_spec: Callable[..., StudySpec], tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(as_yaml(make_spec().model_dump(mode="json")))
    allowed = {"numpy", "pyarrow", "pydantic"}
    assert loaded("check", str(path), "--json") <= allowed
    assert loaded("check", str(path), "--set", "training.stepz=3", code=2) <= allowed
    assert loaded("check", str(path)) <= allowed
    begin_study(make_spec())
    assert loaded("check", str(path)) <= allowed  # one that exists


def test_plan_imports_neither_ray_nor_mlflow(make_spec: Callable[..., StudySpec], tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(as_yaml(make_spec().model_dump(mode="json")))
    assert not loaded("plan", str(path), "--step-seconds", "0.1", "--json") & {"ray", "mlflow", "plotly"}


def test_reading_commands_import_neither_torch_nor_optuna(
    make_spec: Callable[..., StudySpec], tmp_path: Path
) -> None:
    begin_study(make_spec())
    storage = str(tmp_path / "studies")
    for verb in (["show", "small"], ["trials", "small"], ["studies"]):
        assert loaded(*verb, "--storage", storage) <= {"numpy", "pyarrow", "pydantic"}, verb


def test_steering_commands_import_neither_torch_nor_optuna(
    make_spec: Callable[..., StudySpec], tmp_path: Path
) -> None:
    begin_study(make_spec())
    storage = str(tmp_path / "studies")
    for verb in (
        ["extend", "small", "--trials", "9"],
        ["pause", "small"],
        ["resume", "small"],
        ["stop", "small"],
    ):
        assert loaded(*verb, "--storage", storage) <= {"numpy", "pyarrow", "pydantic"}, verb


def test_driver_imports_neither_torch_nor_mlflow() -> None:
    modules = ("commands.study", "run.driver", "run.progress", "cluster.bridge", "cluster.trainable")
    script = f"import sys, {', '.join(f'proxytune.tuning.{module}' for module in modules)}\n"
    script += "print(*[name for name in ('torch', 'scipy', 'mlflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_data_list_imports_neither_torch_nor_optuna(tmp_path: Path) -> None:
    assert loaded("data", "list", "--root", str(tmp_path)) <= {"numpy", "pyarrow", "pydantic"}


def test_every_command_has_a_line_in_the_help() -> None:
    for verb, (module, line) in VERBS.items():
        command = getattr(importlib.import_module(f"proxytune.tuning.commands.{module}"), verb)
        assert isinstance(command, click.Command)
        assert command.help, verb
        assert line.endswith(".")
    for found in pkgutil.iter_modules(commands.__path__):
        defined = vars(importlib.import_module(f"proxytune.tuning.commands.{found.name}")).values()
        names = {
            command.name
            for command in defined
            if isinstance(command, click.Command)
            and not (command.name or "").startswith(("list", "prepare", "inspect", "sync", "rebuild"))
        }
        assert names <= set(VERBS), found.name
    assert set(cli.list_commands(click.Context(cli))) == set(VERBS)


def test_keys_in_errors_become_flags_on_the_command_line() -> None:
    assert with_flags("address 'x' must be local") == "--address 'x' must be local"
    assert (
        with_flags("the test split was opened; `again` opens it")
        == "the test split was opened; `--again` opens it"
    )
    assert with_flags("model: no address is meant here") == "model: no address is meant here"
