"""Every command of README and tutorial runs, in its order (searches are shortened; `make` is what CI runs around this test)."""

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


def commands(page: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def piped(command: list[str]) -> tuple[list[str], str | None]:
    """A command and its standard input: `echo TEXT | proxytune ...` as the latter with the text."""
    if command[0] == "echo" and "|" in command:
        return command[command.index("|") + 1 :], command[1] + "\n"
    return command, None


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = [command[1] for command in commands("README.md") if command[0] == "make"]
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def run_all(page: str, folder: Path, env: dict[str, str]) -> set[str]:
    """Run every proxytune command of the page in the folder; the verbs."""
    run = [(words[1:], given) for words, given in map(piped, commands(page)) if words[0] == "proxytune"]
    for verb, given in run:
        extra: list[str] = []
        if verb[0] in ("check", "run"):
            without_rungs = "search.stopping=none" in verb
            short = [one for one in SHORT if not (without_rungs and "stopping" in one)]
            extra = [argument for assignment in short for argument in ("--set", assignment)]
        if verb[0] == "ui":
            extra = ["--print-command"]  # test_track_verbs.py serves it
        done = proxytune_on_ray(*verb, *extra, cwd=folder, given=given, **env)
        assert done.returncode == 0, f"{shlex.join(verb)}: {done.stderr}"
        assert done.stdout.strip(), shlex.join(verb)
    return {verb[0] for verb, _ in run}


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"PROXYTUNE_CACHE": str(tmp_path_factory.mktemp("cache"))}


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1800)  # some 15 processes, six of which start Ray or load a model
def test_all_verbs_run_in_the_readmes_order(tmp_path: Path, environment: dict[str, str]) -> None:
    verbs = run_all("README.md", tmp_path, environment)
    assert {
        "check",
        "run",
        "show",
        "trials",
        "ui",
        "export",
        "verify",
        "evaluate",
        "predict",
        "train",
    } <= verbs
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
def test_the_tutorial_ends_with_a_model(tmp_path: Path, environment: dict[str, str]) -> None:
    (study,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/tutorial.md").read_text(), re.DOTALL)
    (tmp_path / "study.yaml").write_text(study)
    assert "export" in run_all("docs/tutorial.md", tmp_path, environment)
    assert (tmp_path / "winner" / "model.pt2").exists()


@pytest.mark.slow
def test_the_site_has_no_broken_link() -> None:
    """The command of `make docs`, whose --strict makes a warning an error."""
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
