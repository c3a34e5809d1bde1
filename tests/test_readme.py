"""The commands of README and tutorial run in their order, with shortened searches.

Except `make` targets, which are only compared with the Makefile.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commandline import proxytune_on_ray

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


def page_commands(page: str) -> list[list[str]]:
    """The commands in the shell blocks of a Markdown page, each split into words."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def split_pipe(command: list[str]) -> tuple[list[str], str | None]:
    """A command and its standard input, which is TEXT for `echo TEXT | COMMAND` and None otherwise."""
    if command[0] == "echo" and "|" in command:
        return command[command.index("|") + 1 :], command[1] + "\n"
    return command, None


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = [command[1] for command in page_commands("README.md") if command[0] == "make"]
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def run_proxytune_commands(page: str, folder: Path, env: dict[str, str]) -> set[str]:
    """Run every `proxytune` command of the page in the folder; returns the verbs."""
    runs = [
        (words[1:], stdin) for words, stdin in map(split_pipe, page_commands(page)) if words[0] == "proxytune"
    ]
    for arguments, stdin in runs:
        extra: list[str] = []
        if arguments[0] in ("check", "run"):
            without_rungs = "search.stopping=none" in arguments
            short = [assignment for assignment in SHORT if not (without_rungs and "stopping" in assignment)]
            extra = [argument for assignment in short for argument in ("--set", assignment)]
        if arguments[0] == "ui":
            extra = ["--print-command"]  # test_track_verbs.py starts the server
        done = proxytune_on_ray(*arguments, *extra, cwd=folder, stdin=stdin, **env)
        assert done.returncode == 0, f"{shlex.join(arguments)}: {done.stderr}"
        assert done.stdout.strip(), shlex.join(arguments)
    return {arguments[0] for arguments, _ in runs}


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"PROXYTUNE_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1800)  # about 15 processes, six of which start Ray or load a model
def test_readme_commands_succeed_in_order(tmp_path: Path, environment: dict[str, str]) -> None:
    verbs = run_proxytune_commands("README.md", tmp_path, environment)
    search = {"check", "run", "show", "trials", "ui"}
    export = {"export", "verify", "evaluate", "predict", "train"}
    assert search | export <= verbs
    (block,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-P", "-c", block],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_tutorial_commands_export_a_model(tmp_path: Path, environment: dict[str, str]) -> None:
    (study,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/tutorial.md").read_text(), re.DOTALL)
    (tmp_path / "study.yaml").write_text(study)
    assert "export" in run_proxytune_commands("docs/tutorial.md", tmp_path, environment)
    assert (tmp_path / "winner" / "model.pt2").exists()


@pytest.mark.slow
def test_documentation_site_builds_without_broken_links() -> None:
    """Runs the command of `make docs`; --strict turns warnings into errors."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", "docs/reference/mkdocs.yml"],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (REPOSITORY / "build/site/reference/study-file.html").read_text()
    assert "steps between" in reference or "optimizer steps" in reference
