"""`proxytune slurm` and its batch script, without Slurm."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from proxytune.tuning.cli import cli
from proxytune.tuning.commands.slurm import MARKER, SCRIPT, parse_minutes
from proxytune.tuning.errors import InputError, ProxytuneError


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["slurm", "listops-mini", "--storage", "/shared/studies", *arguments])


def sbatch_options(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]


def test_script_in_deploy_links_to_the_packaged_one(deploy: Path) -> None:
    assert (deploy / "slurm" / "study.sbatch").resolve() == SCRIPT.resolve()
    assert SCRIPT.read_text().count(MARKER) == 1


def test_printed_script_contains_the_options_and_the_study(tmp_path: Path) -> None:
    done = invoke(
        "--gpus", "4", "--nodes", "2", "--time", "4:00:00", "--partition", "a100", "--sbatch=--mem=64G"
    )
    assert done.exit_code == 0, done.output
    assert sbatch_options(done.stdout)[-9:] == [
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
    lines = done.stdout.splitlines()
    first_command = next(number for number, line in enumerate(lines) if line and line[0] != "#")
    # sbatch ignores options after the first command.
    assert not any("#SBATCH" in line for line in lines[first_command:])
    study = done.stdout.partition("<<'END_OF_STUDY'\n")[2].partition("END_OF_STUDY\n")[0]
    (tmp_path / "study.yaml").write_text(study)
    checked = CliRunner().invoke(cli, ["check", str(tmp_path / "study.yaml"), "--set", "resources.gpu=0"])
    assert checked.exit_code == 0, checked.output
    assert "storage: /shared/studies" in checked.stdout


def test_scripts_pass_shellcheck(tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(invoke().stdout)
    for path in (SCRIPT, tmp_path / "job.sh"):
        # SC2329, a function that is never called: ray_worker is called on other nodes.
        done = subprocess.run(
            [Path(sys.executable).with_name("shellcheck"), "--shell=bash", "--exclude=SC2329", path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time", "2"], "at least 10 minutes"),
        (["--time", "soon"], "not in Slurm's formats M, M:S, H:M:S"),
        (["--storage", "studies"], "is relative; a job needs an absolute folder"),
        (["--cpus", "1", "--set", "resources.cpu=2"], "a trial needs 2 (resources.cpu)"),
        (["--set", "resources.gpu=1"], "--gpus 0: a trial needs 1 (resources.gpu)"),
        (["--sbatch", "mem=3G"], "'mem=3G' is not a long option of sbatch"),
        (["--partition", "a b"], "'--partition=a b' is not a long option of sbatch"),
        (["--partition", "a\n#SBATCH --nodes=9"], "is not a long option of sbatch"),
    ],
)
def test_invalid_input_is_rejected_in_one_line(arguments: list[str], message: str) -> None:
    done = invoke(*arguments)
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


def test_missing_sbatch_and_rejection_by_sbatch_are_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = invoke("--submit")
    assert isinstance(done.exception, InputError)
    assert "sbatch not found" in str(done.exception)
    error = "sbatch: error: invalid partition specified: x\\nsbatch: error: Batch job submission failed"
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\nprintf '{error}' >&2\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    done = invoke("--submit", "--partition", "x")
    assert type(done.exception) is ProxytuneError
    assert str(done.exception) == "sbatch: invalid partition specified: x; Batch job submission failed"


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_time_limits_are_parsed_in_all_formats_of_slurm(
    days: int, hours: int, minutes: int, seconds: int
) -> None:
    total = days * 1440 + hours * 60 + minutes
    assert parse_minutes(f"{days}-{hours}:{minutes:02}:{seconds:02}") == pytest.approx(total + seconds / 60)
    assert parse_minutes(f"{days}-{hours}:{minutes:02}") == total
    assert parse_minutes(f"{days}-{hours}") == days * 1440 + hours * 60
    assert parse_minutes(f"{hours}:{minutes:02}:{seconds:02}") == pytest.approx(
        hours * 60 + minutes + seconds / 60
    )
    assert parse_minutes(f"{minutes}:{seconds:02}") == pytest.approx(minutes + seconds / 60)
    assert parse_minutes(str(total)) == total
