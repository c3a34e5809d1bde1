"""The state table with real Ray, training, storage and MLflow: every fault in studies with one and several objectives.

The last trial of each study kills its driver. The first driver process is killed in the first study; the second resumes
that study and is killed in the second; the third completes it.
"""

import math
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from proxytune.tuning.journal.events import Event
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.store.study import open_study
from proxytune.tuning.store.summary import outcome_of
from tests.tuning.search import matrix_driver as matrix

pytestmark = [pytest.mark.slow, pytest.mark.e2e]
SCRIPT = Path(__file__).with_name("matrix_driver.py")
MEMORY = "train_memory_mib_per_sequence"


@dataclass(frozen=True)
class Expected:
    """A row of the state table."""

    state: TrialState
    outcome: str
    status: str  # of the MLflow run
    steps: tuple[int, ...]  # reported
    attempts: int = 1
    reason: str = ""


TABLE = {
    "finishes": Expected(TrialState.COMPLETE, "complete", "FINISHED", (10, 20)),
    "stopped at a rung": Expected(TrialState.PRUNED, "pruned", "FINISHED", (10,), reason="at step 10"),
    "NaN": Expected(TrialState.FAIL, "diverged", "FAILED", (10,), reason="nan"),
    "Inf": Expected(TrialState.FAIL, "diverged", "FAILED", (10,), reason="nan"),
    "out of memory": Expected(TrialState.FAIL, "out_of_memory", "FAILED", (10,), reason="memory"),
    "worker killed": Expected(TrialState.COMPLETE, "complete", "FINISHED", (10, 20), attempts=2),
    "trial raises": Expected(TrialState.FAIL, "failed", "FAILED", (10,), reason="ValueError: injected error"),
    "driver killed": Expected(TrialState.COMPLETE, "complete", "FINISHED", (10, 20), attempts=2),
}


@dataclass(frozen=True)
class Seen:
    """The records of a study after its end."""

    trials: list[FrozenTrial]
    events: list[Event]
    problems: list[str]  # of the journal
    runs: dict[int, list[Any]]  # of MLflow, by trial number

    def of(self, kind: str, number: int) -> list[Event]:
        return [event for event in self.events if event.kind == kind and event.trial == number]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, data_cache: Path) -> dict[str, Seen]:
    folder = tmp_path_factory.mktemp("matrix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROXYTUNE_CACHE", str(data_cache))
        for studies, code in (
            (["one"], -signal.SIGKILL),
            (["one", "several"], -signal.SIGKILL),
            (["several"], 0),
        ):
            done = subprocess.run(
                [sys.executable, "-P", SCRIPT, folder, *studies],
                capture_output=True,
                text=True,
                timeout=280,
                check=False,
            )
            assert done.returncode == code, done.stderr
            assert "Traceback" not in done.stderr, done.stderr
    found = {}
    for objectives in matrix.OBJECTIVES:
        trials = open_study(objectives, folder).trials()
        journal = read_events(folder / objectives / "outbox")
        found[objectives] = Seen(trials, journal.events, journal.problems, mlflow_runs(folder, objectives))
    print_matrix(found)
    return found


def mlflow_runs(folder: Path, study: str) -> dict[int, list[Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("proxytune")
    assert experiment is not None
    runs: dict[int, list[Any]] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        name, _, number = run.data.tags.get("trial_key", "").partition("/")
        if name == study:
            runs.setdefault(int(number), []).append(run)
    return runs


def print_matrix(found: dict[str, Seen]) -> None:
    print()
    for objectives, study in found.items():
        for trial in study.trials:
            (run,) = study.runs[trial.number]
            values = None if trial.values is None else [round(value, 4) for value in trial.values]
            steps = [event.step for event in study.of("report", trial.number)]
            print(
                f"{objectives:8} {matrix.FAULTS[trial.number]:18} {trial.state.name:9} {outcome_of(trial):14}"
                f" {run.info.status:9} {run.data.tags['outcome']:14} values {values}, reports {steps},"
                f" attempts {len(study.of('trial', trial.number))}"
            )


@pytest.mark.parametrize("fault", matrix.FAULTS)
@pytest.mark.parametrize("objectives", matrix.OBJECTIVES)
@pytest.mark.timeout(900)
def test_trial_ends_as_listed_in_the_state_table(seen: dict[str, Seen], objectives: str, fault: str) -> None:
    study, expected, number = seen[objectives], TABLE[fault], matrix.FAULTS.index(fault)
    trial = study.trials[number]
    assert (trial.state, outcome_of(trial)) == (expected.state, expected.outcome)
    assert expected.reason in trial.user_attrs["end"]["reason"]

    # Optuna has values only of trials with the full budget, and every report once.
    if expected.state == TrialState.COMPLETE:
        assert trial.values is not None
        assert trial.values[0] == matrix.accuracy(number, matrix.STEPS)
        assert len(trial.values) == len(matrix.OBJECTIVES[objectives])
        assert all(math.isfinite(value) for value in trial.values)
    elif expected.state == TrialState.PRUNED and objectives == "one":
        assert trial.values == [matrix.accuracy(number, matrix.RUNG)]  # as Optuna stores it: the last report
    else:
        assert trial.values is None
    if objectives == "one":
        assert trial.intermediate_values == {step: matrix.accuracy(number, step) for step in expected.steps}
    rung = trial.user_attrs[f"rung:{matrix.RUNG}"]["values"]
    assert rung[0] == -matrix.accuracy(number, matrix.RUNG)
    assert trial.constraints[MEMORY] > 0 if fault == "out of memory" else trial.constraints[MEMORY] <= 0

    # The journal and MLflow record each trial once.
    assert [event.step for event in study.of("report", number)] == list(expected.steps)
    assert [event.attempt for event in study.of("trial", number)] == list(range(1, expected.attempts + 1))
    ends = Counter(event.outcome for event in study.of("end", number))
    assert ends == Counter([expected.outcome]) + Counter(["interrupted"] * (fault == "driver killed"))
    (run,) = study.runs[number]
    assert (run.info.status, run.data.tags["outcome"]) == (expected.status, expected.outcome)


@pytest.mark.parametrize("objectives", matrix.OBJECTIVES)
def test_every_trial_is_finished_and_recorded_once(seen: dict[str, Seen], objectives: str) -> None:
    study = seen[objectives]
    assert len(study.trials) == len(matrix.FAULTS)
    assert all(trial.state.is_finished() for trial in study.trials)
    assert sorted(study.runs) == list(range(len(matrix.FAULTS)))
    assert all(len(runs) == 1 and runs[0].info.status != "RUNNING" for runs in study.runs.values())
    assert study.problems == []
