"""Imports of each command: it starts quickly because it imports only the packages that it needs."""

import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from proxytune.tuning import commands
from proxytune.tuning.cli import VERBS, cli, with_flags
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.yaml_file import as_yaml

HEAVY = (
    *("matplotlib", "mlflow", "numpy", "optuna", "pandas", "plotly", "pyarrow", "pydantic", "ray", "scipy"),
    *("sqlalchemy", "torch"),
)
ALLOWED = {"numpy", "pyarrow", "pydantic"}
"""Heavy packages that commands may import unless they train, search or plot."""
RUN_COMMANDS = """
import json, sys
from proxytune.tuning.cli import main
heavy, commands = json.loads(sys.argv[1])
for command in commands:
    sys.argv = ["proxytune", *command]
    code = 0
    try:
        main()
    except SystemExit as exit:
        code = exit.code or 0
    print("\\nafter:", json.dumps([code, [name for name in heavy if name in sys.modules]]), file=sys.stderr)
"""
COMPLETE = """
import json, os, sys
from proxytune.tuning.cli import cli
heavy, lines = json.loads(sys.argv[1])
sys.argv[0] = "proxytune"
os.environ["_PROXYTUNE_COMPLETE"] = "bash_complete"
for line in lines:
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = line, str(line.count(" "))
    try:
        cli(prog_name="proxytune")
    except SystemExit:
        pass
    print("after:", json.dumps([name for name in heavy if name in sys.modules]))
"""


def run_python(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def imported_by(*arguments: Sequence[str], codes: Sequence[int] | None = None) -> set[str]:
    """The heavy packages that the commands import in one process; `codes`: their exit codes, default 0."""
    done = run_python(RUN_COMMANDS, json.dumps([HEAVY, arguments]))
    after = [line.removeprefix("after: ") for line in done.stderr.splitlines() if line.startswith("after: ")]
    results = [json.loads(line) for line in after]
    assert [code for code, _ in results] == list(codes or [0] * len(arguments)), done.stderr
    print(*zip(arguments, (names for _, names in results), strict=True), sep="\n")
    return set(results[-1][1])


def write_study(spec: StudySpec, path: Path) -> str:
    path.write_text(as_yaml(spec.model_dump(mode="json")))
    return str(path)


def test_help_imports_no_heavy_packages() -> None:
    of_commands = ([name, "--help"] for name in ("run", "show", "check"))
    assert imported_by(["--help"], ["--version"], *of_commands) == set()


def test_completion_imports_no_heavy_packages() -> None:
    lines = {
        "proxytune ch": "check",
        "proxytune run list": "listops-mini",
        "proxytune run --set training.st": "training.steps=",
    }
    done = run_python(COMPLETE, json.dumps([HEAVY, list(lines)]))
    *outputs, rest = done.stdout.split("after: []\n")
    assert rest == "", done.stdout
    for output, expected in zip(outputs, lines.values(), strict=True):
        assert expected in output


def test_check_imports_neither_torch_nor_optuna(make_spec: Callable[..., StudySpec], tmp_path: Path) -> None:
    new = write_study(make_spec(), tmp_path / "new.yaml")
    stored = make_spec(f"storage={tmp_path}/stored")
    begin_study(stored)
    commands = (
        ["check", new, "--json"],
        ["check", new, "--set", "training.stepz=3"],
        ["check", new],
        ["check", write_study(stored, tmp_path / "stored.yaml")],
    )
    assert {"pydantic"} <= imported_by(*commands, codes=(0, 2, 0, 0)) <= ALLOWED


def test_plan_imports_neither_ray_nor_mlflow(make_spec: Callable[..., StudySpec], tmp_path: Path) -> None:
    spec = make_spec(
        "search.space={model.dropout: {low: 0.0, high: 0.3}}", "search.enqueue=[]", "search.trials=1"
    )
    command = ["plan", write_study(spec, tmp_path / "study.yaml"), "--step-seconds", "0.1", "--json"]
    assert not imported_by(command) & {"ray", "mlflow", "plotly"}


def test_service_imports_neither_torch_nor_matplotlib() -> None:
    assert not imported_by(["serve", "--print-openapi"]) & {"torch", "matplotlib", "ray", "mlflow"}


def test_commands_on_a_stored_study_import_neither_torch_nor_optuna(
    make_spec: Callable[..., StudySpec], tmp_path: Path
) -> None:
    begin_study(make_spec())
    reading = (["show", "small"], ["trials", "small"], ["studies"])
    steering = (
        ["extend", "small", "--trials", "9"],
        *([name, "small"] for name in ("pause", "resume", "stop")),
    )
    where = ["--storage", str(tmp_path / "studies")]
    assert imported_by(*([*command, *where] for command in (*reading, *steering))) <= ALLOWED


def test_data_commands_import_no_heavy_packages(tmp_path: Path) -> None:
    prepare = ["data", "prepare", "listops-mini", "--option", "train_examples=10"]
    assert imported_by(["data", "list", "--root", str(tmp_path)], prepare) <= ALLOWED


def test_driver_imports_neither_torch_nor_mlflow() -> None:
    modules = ("commands.study", "run.driver", "run.progress", "cluster.bridge", "cluster.trainable")
    script = f"import sys, {', '.join(f'proxytune.tuning.{module}' for module in modules)}\n"
    script += "print(*[name for name in ('torch', 'scipy', 'mlflow') if name in sys.modules])"
    done = run_python(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_every_command_has_a_line_in_the_help() -> None:
    for name, (module, line) in VERBS.items():
        command = getattr(importlib.import_module(f"proxytune.tuning.commands.{module}"), name)
        assert isinstance(command, click.Command)
        assert command.help, name
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
