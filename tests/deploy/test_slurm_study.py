"""A study on a real Slurm cluster through time limits and a scancel: SQL shows that no result is lost or repeated."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.commandline import command
from tests.deploy.slurm_cluster import SlurmCluster
from tests.observed_study import ObservedStudy

STEPS, EVERY = 600, 150
AHEAD = 20  # trials: more than two slots finish on an idle machine until Slurm detects a time limit
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
LEAD_SECONDS = 120  # Slurm checks time limits every 30 s


def submit_study(slurm: SlurmCluster, *arguments: object) -> str:
    """Submit the study with `proxytune slurm`; returns the job's id."""
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


def extend_budget(slurm: SlurmCluster, observed: ObservedStudy, uri: str, trials: int) -> int:
    """Extend the study beyond `trials` if needed, so that AHEAD trials remain; returns its budget.

    A fast machine would otherwise finish the study before the test ends.
    """
    budget = len(observed.completions()) + AHEAD
    if budget <= trials:
        return trials
    location = ["--storage", slurm.folder / "studies", "--database", uri]
    subprocess.run(command("extend", "study", "--trials", budget, *location), check=True)
    return budget


def reach_the_time_limit(slurm: SlurmCluster, job: str, restarts: int) -> None:
    """Reduce the running job's time limit, so that Slurm signals it, and wait until it is requeued."""
    hours, minutes, _ = map(int, slurm.job(job)["RunTime"].split(":"))
    slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={hours * 60 + minutes + 2}")
    slurm.wait_until(lambda: slurm.job(job)["Restarts"] == str(restarts))
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_time_limits_and_scancel_lose_and_repeat_no_result(
    slurm: SlurmCluster, postgres: Any, record_property: Any
) -> None:
    study = STUDY.replace("trials: 1000", f"trials: {AHEAD}") + f"database: {postgres.uri}\n"
    (slurm.folder / "study.yaml").write_text(study)
    observed = ObservedStudy(slurm.folder / "studies" / "study" / "outbox")

    def wait_for_a_report(job: str) -> None:
        before = len(observed.events("report"))
        slurm.wait_until(lambda: len(observed.events("report")) >= before + 1 or slurm.ended(job), 1800)
        assert not slurm.ended(job), slurm.logs()

    trials = AHEAD
    job = submit_study(slurm)
    observed.note(f"job {job} submitted")
    waiting = submit_study(slurm)
    for restarts in (1, 2, 3):
        wait_for_a_report(job)
        trials = extend_budget(slurm, observed, postgres.uri, trials)
        if restarts == 1:
            assert slurm.job(waiting)["Reason"] == "Dependency"  # the second job waits in the queue
        reach_the_time_limit(slurm, job, restarts)
        observed.note(f"job {job} reached its time limit and was requeued")
    wait_for_a_report(job)
    slurm.run("scancel", job, waiting)
    slurm.wait_until(lambda: slurm.ended(job) and slurm.ended(waiting))
    observed.note(f"job {job} cancelled")
    last = submit_study(slurm)
    slurm.wait_until(lambda: slurm.ended(last), 2400)
    observed.note(f"job {last} ended")
    assert slurm.job(last)["JobState"] == "COMPLETED", slurm.logs()
    output = (slurm.folder / f"proxytune-study-{job}.out").read_text()
    assert len(re.findall("ended with code 75 after USR1", output)) == 3, output
    for line in observed.timeline:
        record_property("timeline", line)
    record_property("counts", check_counts(slurm.folder, postgres.uri, observed, trials))


def check_counts(folder: Path, uri: str, observed: ObservedStudy, trials: int) -> dict[str, int]:
    """Compare the row counts of database, journal and MLflow with those of an uninterrupted study; returns them."""
    engine = sa.create_engine(uri)
    with engine.connect() as database:

        def count(query: str) -> Any:
            return database.execute(sa.text(query)).scalar_one()

        counts = {
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
    journal = [(event.trial, event.step) for event in observed.events("report")]
    counts |= {"journal": len(journal), "distinct in the journal": len(set(journal))}
    with sqlite3.connect(folder / "studies" / "mlflow.db") as mlflow:
        (counts["MLflow"],) = mlflow.execute(
            "SELECT count(*) FROM metrics WHERE key = 'val_accuracy'"
        ).fetchone()
        (counts["distinct in MLflow"],) = mlflow.execute(
            "SELECT count(*) FROM (SELECT DISTINCT run_uuid, step FROM metrics WHERE key = 'val_accuracy')"
        ).fetchone()
        (counts["MLflow runs"],) = mlflow.execute(
            "SELECT count(*) FROM runs WHERE status = 'FINISHED'"
        ).fetchone()
        (counts["all MLflow runs"],) = mlflow.execute("SELECT count(*) FROM runs").fetchone()
    reports = trials * STEPS // EVERY
    assert counts == {
        **{"trials": trials, "complete": trials, "values": trials, "leases": 0},
        **dict.fromkeys(("reports", "distinct reports", "journal", "distinct in the journal"), reports),
        **dict.fromkeys(("MLflow", "distinct in MLflow"), reports),
        **dict.fromkeys(("MLflow runs", "all MLflow runs"), trials + 1),  # and one run of the study
    }
    return counts


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_job_of_a_held_study_exits_with_code_3_and_a_message(slurm: SlurmCluster, deploy: Path) -> None:
    """The jobs are submitted without --dependency=singleton, so neither waits for the other; the database is sqlite."""
    (slurm.folder / "study.yaml").write_text(STUDY.replace("name: study", "name: held"))
    script = [deploy / "slurm" / "study.sbatch", "study.yaml", "--storage", slurm.folder / "studies"]
    environment = {
        "PYTHON": sys.executable,
        "PROXYTUNE_CACHE": str(slurm.folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = ["sbatch", "--parsable", "--nodelist=n1", "--cpus-per-task=1", "--output=%j.out", *script]
    holder = slurm.run(*command, **environment)
    slurm.wait_until((slurm.folder / "studies" / "held" / "outbox").exists)
    second = slurm.run(*command, **environment)
    slurm.wait_until(lambda: slurm.ended(second))
    output = (slurm.folder / f"{second}.out").read_text()
    assert slurm.job(second)["ExitCode"] == "3:0", output
    assert output.count("study held is held by process") == 2
    assert "another driver holds the study, so this job ends" in output
    slurm.run("scancel", "--batch", "--signal=TERM", holder)
    slurm.wait_until(lambda: slurm.ended(holder))
    assert "ended with code 75 after TERM" in (slurm.folder / f"{holder}.out").read_text()
