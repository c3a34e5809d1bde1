"""`proxytune slurm` and its batch script, as far as that needs no Slurm."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from proxytune.tuning.cli import cli
from proxytune.tuning.commands.slurm import MARKER, SCRIPT, _minutes
from proxytune.tuning.errors import InputError, ProxytuneError


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["slurm", "listops-mini", "--storage", "/shared/studies", *arguments])


def options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_the_script_in_deploy_is_the_one_that_is_shipped(deploy: Path) -> None:
    assert (deploy / "slurm" / "study.sbatch").resolve() == SCRIPT.resolve()
    assert SCRIPT.read_text().count(MARKER) == 1


def test_the_printed_script_is_all_there_is(tmp_path: Path) -> None:
    done = invoke(
        "--gpus", "4", "--nodes", "2", "--time", "4:00:00", "--partition", "a100", "--sbatch=--mem=64G"
    )
    assert done.exit_code == 0, done.output
    assert options(done.stdout)[-9:] == [
        "--job-name=proxytune-listops-mini",
        "--dependency=singleton",
        "--output=proxytune-listops-mini-%j.out",
        "--partition=a100",
        "--time=4:00:00",
        "--nodes=2",
        "--gpus-per-node=4",
        "--cpus-per-task=4",
        "--mem=64G",
    ]
    first_command = next(n for n, line in enumerate(done.stdout.splitlines()) if line and line[0] != "#")
    assert all(
        "#SBATCH" not in line for line in done.stdout.splitlines()[first_command:]
    )  # sbatch reads no further
    written = done.stdout.partition("<<'END_OF_STUDY'\n")[2].partition("END_OF_STUDY\n")[0]
    (tmp_path / "study.yaml").write_text(written)
    again = CliRunner().invoke(cli, ["check", str(tmp_path / "study.yaml"), "--set", "resources.gpu=0"])
    assert again.exit_code == 0, again.output
    assert "storage: /shared/studies" in again.stdout


def test_the_script_is_clean_shell(tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(invoke().stdout)
    for path in (SCRIPT, tmp_path / "job.sh"):
        # SC2329: ray_worker is called on other nodes.
        done = subprocess.run(
            [Path(sys.executable).with_name("shellcheck"), "--shell=bash", "--exclude=SC2329", path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--time", "2"], "at least 10 minutes"),
        (["--time", "soon"], "not in Slurm's formats M, M:S, H:M:S"),
        (["--storage", "studies"], "is relative; a job needs an absolute folder"),
        (["--cpus", "1", "--set", "resources.cpu=2"], "a trial takes 2 (resources.cpu)"),
        (["--set", "resources.gpu=1"], "--gpus 0: a trial takes 1 (resources.gpu)"),
        (["--sbatch", "mem=3G"], "'mem=3G' is not a long option of sbatch"),
        (["--partition", "a b"], "'--partition=a b' is not a long option of sbatch"),
        (["--partition", "a\n#SBATCH --nodes=9"], "is not a long option of sbatch"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], words: str) -> None:
    done = invoke(*arguments)
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception)
    assert "\n" not in str(done.exception)


def test_no_sbatch_here_and_one_that_refuses_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = invoke("--submit")
    assert isinstance(done.exception, InputError)
    assert "sbatch not found" in str(done.exception)
    refusal = "sbatch: error: invalid partition specified: x\\nsbatch: error: Batch job submission failed"
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\nprintf '{refusal}' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    done = invoke("--submit", "--partition", "x")
    assert type(done.exception) is ProxytuneError
    assert str(done.exception) == "sbatch: invalid partition specified: x; Batch job submission failed"


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_time_limits_are_read_in_every_form_of_slurm(
    days: int, hours: int, minutes: int, seconds: int
) -> None:
    whole = days * 1440 + hours * 60 + minutes
    assert _minutes(f"{days}-{hours}:{minutes:02}:{seconds:02}") == pytest.approx(whole + seconds / 60)
    assert _minutes(f"{days}-{hours}:{minutes:02}") == whole
    assert _minutes(f"{days}-{hours}") == days * 1440 + hours * 60
    assert _minutes(f"{hours}:{minutes:02}:{seconds:02}") == pytest.approx(
        hours * 60 + minutes + seconds / 60
    )
    assert _minutes(f"{minutes}:{seconds:02}") == pytest.approx(minutes + seconds / 60)
    assert _minutes(str(whole)) == whole
