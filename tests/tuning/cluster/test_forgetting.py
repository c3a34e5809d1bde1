"""What Ray keeps of ended trials does not grow with the study."""

import pytest

from proxytune.tuning.cluster import bridge
from proxytune.tuning.run.driver import run_study
from tests.benchmarks.turnaround import NoWorkTrainable, no_work_study


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.timeout(1200)
def test_tune_forgets_trials_that_have_ended_and_runs_them_all(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(bridge, "KEPT_TRIALS", 5)
    known: list[int] = []
    choose = bridge.StudyScheduler.choose_trial_to_run

    def observed(self, tune_controller):
        chosen = choose(self, tune_controller)
        known.append(len(tune_controller.get_trials()))
        return chosen

    monkeypatch.setattr(bridge.StudyScheduler, "choose_trial_to_run", observed)
    study = run_study(no_work_study(tmp_path, 40), trainable=NoWorkTrainable)
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE"] * 40
    assert 5 <= max(known) <= 20
    study.storage.engine.dispose()
