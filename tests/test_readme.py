"""Every command of the README runs, in its order (searches are shortened; `make` is what CI runs around this test)."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commandline import command

REPOSITORY = Path(__file__).parents[1]
SHORT = [
    "task.max_length=64",
    "model.num_proxies=64",
    "task.train_examples=256",
    "search.trials=3",
    "training.steps=8",
    "training.warmup_steps=2",
    "training.eval_every=4",
    "search.stopping.min_steps=4",
]


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)


def piped(command: list[str]) -> tuple[list[str], str | None]:
    """A command and its standard input: `echo TEXT | proxytune ...` as the latter with the text."""
    if command[0] == "echo" and "|" in command:
        return command[command.index("|") + 1 :], command[1] + "\n"
    return command, None


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = [command[1] for command in commands() if command[0] == "make"]
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.timeout(1800)  # some 15 processes, six of which start Ray or load a model
def test_all_verbs_run_in_the_readmes_order(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    env = os.environ | {"PROXYTUNE_CACHE": str(tmp_path_factory.mktemp("cache"))}
    run = [(command[1:], given) for command, given in map(piped, commands()) if command[0] == "proxytune"]
    wanted = {"check", "run", "show", "trials", "ui", "export", "verify", "evaluate", "predict", "train"}
    assert wanted <= {verb[0] for verb, _ in run}
    for verb, given in run:
        extra: list[str] = []
        if verb[0] in ("check", "run"):
            extra = [argument for assignment in SHORT for argument in ("--set", assignment)]
        if verb[0] == "ui":
            extra = ["--print-command"]  # test_run.py serves it
        done = subprocess.run(
            command(*verb, *extra),
            cwd=tmp_path,
            env=env,
            input=given,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(verb)}: {done.stderr}"
        assert done.stdout.strip(), shlex.join(verb)
    assert python_blocks()
    for block in python_blocks():
        done = subprocess.run(
            [sys.executable, "-P", "-c", block],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "parameters" in done.stdout
