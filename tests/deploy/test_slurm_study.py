"""A study on a real Slurm through time limits and a scancel: nothing lost, nothing twice, by SQL."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.commandline import command
from tests.watched import Watched

STEPS, EVERY = 600, 150
AHEAD = 20  # trials: more than two slots of an idle machine train while Slurm notices a time limit
STUDY = f"""
name: study
task: {{name: listops-mini, train_examples: 256}}
model: {{num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}}
training: {{steps: {STEPS}, warmup_steps: 6, batch_size: 8, learning_rate: 1e-3, eval_every: {EVERY}}}
search:
  space:
    model.num_proxies: {{choice: [2, 4, 8]}}
    model.dropout: {{low: 0.0, high: 0.3}}
  stopping: {{name: none}}
  trials: 1000
"""
LEAD_SECONDS = 120  # Slurm looks at the time limits every 30 s


def proxytune(slurm: Any, *arguments: object) -> str:
    """Submit the study by the command line; the job's id."""
    done = subprocess.run(
        [
            *command("slurm", "study.yaml", "--nodes", "2"),
            *("--storage", slurm.folder / "studies", "--time", "60", "--submit"),
            *(f"--sbatch=--signal=B:USR1@{LEAD_SECONDS}", *arguments),
        ],
        cwd=slurm.folder,
        env=slurm.with_environment(OMP_NUM_THREADS="1", PROXYTUNE_CACHE=str(slurm.folder / "cache")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def keep_ahead(slurm: Any, watched: Watched, uri: str, trials: int) -> int:
    """Extend the study from so many trials, so that no machine meets its budget too early; its budget then."""
    wanted = len(watched.completions()) + AHEAD
    if wanted <= trials:
        return trials
    where = ["--storage", slurm.folder / "studies", "--database", uri]
    subprocess.run(command("extend", "study", "--trials", wanted, *where), check=True)
    return wanted


def reach_the_time_limit(slurm: Any, job: str, restarts: int) -> None:
    """Bring the running job's time limit near, so that it is asked for its checkpoints; until it is queued again."""
    hours, minutes, _ = map(int, slurm.job(job)["RunTime"].split(":"))
    slurm.tell("scontrol", "update", f"JobId={job}", f"TimeLimit={hours * 60 + minutes + 2}")
    slurm.until(lambda: slurm.job(job)["Restarts"] == str(restarts))
    slurm.tell("scontrol", "update", f"JobId={job}", "TimeLimit=60")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_study_through_time_limits_and_a_scancel_loses_nothing_and_does_nothing_twice(
    slurm: Any, postgres: Any, record_property: Any
) -> None:
    study = STUDY.replace("trials: 1000", f"trials: {AHEAD}") + f"database: {postgres.uri}\n"
    (slurm.folder / "study.yaml").write_text(study)
    watched = Watched(slurm.folder / "studies" / "study" / "outbox")

    def until_more_reports(job: str) -> None:
        before = len(watched.events("report"))
        slurm.until(lambda: len(watched.events("report")) >= before + 1 or slurm.ended(job), 1800)
        assert not slurm.ended(job), slurm.logs()

    trials = AHEAD
    job = proxytune(slurm)
    watched.note(f"job {job} submitted")
    waiting = proxytune(slurm)
    for restarts in (1, 2, 3):
        until_more_reports(job)
        trials = keep_ahead(slurm, watched, postgres.uri, trials)
        if restarts == 1:
            assert slurm.job(waiting)["Reason"] == "Dependency"  # the second waits in the queue
        reach_the_time_limit(slurm, job, restarts)
        watched.note(f"job {job} at its time limit, requeued")
    until_more_reports(job)
    slurm.tell("scancel", job, waiting)
    slurm.until(lambda: slurm.ended(job) and slurm.ended(waiting))
    watched.note(f"job {job} cancelled")
    last = proxytune(slurm)
    slurm.until(lambda: slurm.ended(last), 2400)
    watched.note(f"job {last} ended")
    assert slurm.job(last)["JobState"] == "COMPLETED", slurm.logs()
    said = (slurm.folder / f"proxytune-study-{job}.out").read_text()
    assert len(re.findall("ended with code 75 after USR1", said)) == 3, said
    for line in watched.timeline:
        record_property("timeline", line)
    record_property("counts", check_nothing_lost_or_twice(slurm.folder, postgres.uri, watched, trials))


def check_nothing_lost_or_twice(folder: Path, uri: str, watched: Watched, trials: int) -> dict[str, int]:
    """The database, the journal and MLflow against what an unbroken study leaves."""
    engine = sa.create_engine(uri)
    with engine.connect() as database:

        def count(query: str) -> Any:
            return database.execute(sa.text(query)).scalar_one()

        found = {
            "trials": count("SELECT count(*) FROM trials"),
            "complete": count("SELECT count(DISTINCT number) FROM trials WHERE state = 'COMPLETE'"),
            "values": count("SELECT count(*) FROM trial_values"),
            "reports": count("SELECT count(*) FROM trial_intermediate_values"),
            "distinct reports": count(
                "SELECT count(*) FROM (SELECT DISTINCT trial_id, step FROM trial_intermediate_values) AS each"
            ),
            "leases": count("SELECT count(*) FROM proxytune_lease"),
        }
    engine.dispose()
    journal = [(event.trial, event.step) for event in watched.events("report")]
    found |= {"journal": len(journal), "distinct in the journal": len(set(journal))}
    with sqlite3.connect(folder / "studies" / "mlflow.db") as mlflow:
        (found["MLflow"],) = mlflow.execute(
            "SELECT count(*) FROM metrics WHERE key = 'val_accuracy'"
        ).fetchone()
        (found["distinct in MLflow"],) = mlflow.execute(
            "SELECT count(*) FROM (SELECT DISTINCT run_uuid, step FROM metrics WHERE key = 'val_accuracy')"
        ).fetchone()
        (found["MLflow runs"],) = mlflow.execute(
            "SELECT count(*) FROM runs WHERE status = 'FINISHED'"
        ).fetchone()
        (found["all MLflow runs"],) = mlflow.execute("SELECT count(*) FROM runs").fetchone()
    reports = trials * STEPS // EVERY
    assert found == {
        **{"trials": trials, "complete": trials, "values": trials, "leases": 0},
        **dict.fromkeys(("reports", "distinct reports", "journal", "distinct in the journal"), reports),
        **dict.fromkeys(("MLflow", "distinct in MLflow"), reports),
        **dict.fromkeys(("MLflow runs", "all MLflow runs"), trials + 1),  # the study's own run
    }
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_job_that_finds_the_study_held_leaves_in_one_line(slurm: Any, deploy: Path) -> None:
    """Two jobs of other names, so that neither waits for the other in the queue; sqlite on the shared folder."""
    (slurm.folder / "study.yaml").write_text(STUDY.replace("name: study", "name: held"))
    script = [deploy / "slurm" / "study.sbatch", "study.yaml", "--storage", slurm.folder / "studies"]
    environment = {
        "PYTHON": sys.executable,
        "PROXYTUNE_CACHE": str(slurm.folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = ["sbatch", "--parsable", "--nodelist=n1", "--cpus-per-task=1", "--output=%j.out", *script]
    holder = slurm.tell(*command, **environment)
    slurm.until((slurm.folder / "studies" / "held" / "outbox").exists)
    second = slurm.tell(*command, **environment)
    slurm.until(lambda: slurm.ended(second))
    said = (slurm.folder / f"{second}.out").read_text()
    assert slurm.job(second)["ExitCode"] == "3:0", said
    assert said.count("study held is held by process") == 2
    assert "another driver holds the study, so this job ends" in said
    slurm.tell("scancel", "--batch", "--signal=TERM", holder)
    slurm.until(lambda: slurm.ended(holder))
    assert "ended with code 75 after TERM" in (slurm.folder / f"{holder}.out").read_text()
