"""The race of the candidates in the controller, and its resumption after a kill."""

from collections import Counter

import pytest
from optuna.trial import TrialState

from proxytune.tuning.confirm.retraining import measured, retrainings
from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.progress import trial_name
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import outcome_of
from tests.tuning.confirm.synthetic import concluded, plan_for, point, racing


def test_every_candidate_is_retrained_with_every_seed_in_waves(study: Study) -> None:
    plan = plan_for(study, 3, 2)
    driver = racing(study, plan)
    seen = []
    while (assignment := driver.controller.next_trial()) is not None:
        candidate, seed = point(driver, assignment.number)
        expected = study.spec.trial(study.trials()[candidate].params | {"training.seed": seed})
        assert (assignment.spec.model, assignment.spec.training) == (expected.model, expected.training)
        assert assignment.spec.seed == seed != study.spec.training["seed"]
        seen.append((candidate, seed))
        driver.report(assignment.number, 4, 0.3)
    assert seen == [(4, 1), (3, 1), (2, 1), (4, 2), (3, 2), (2, 2)]


def test_eliminated_candidate_loses_its_queued_and_running_retrainings(study: Study) -> None:
    plan = plan_for(study, 3, 5)
    driver = racing(study, plan)
    values = {4: 0.30, 3: 0.30, 2: 0.10}
    waves = [driver.controller.next_trial().number for _ in range(6)]
    ahead = [driver.controller.next_trial().number for _ in range(3)]  # free slots start the third seed
    assert [point(driver, number)[0] for number in ahead] == [4, 3, 2]
    for number in waves:
        candidate, seed = point(driver, number)
        driver.report(number, 4, values[candidate] + 0.001 * (-1) ** (candidate + seed))
    assert driver.report(ahead[2], 2, 0.1), "it stops at its next update"
    assert not driver.report(ahead[0], 2, 0.3)
    trials = driver.study.trials()
    eliminated = [trial for trial in trials if trial.user_attrs["candidate"] == 2]
    assert Counter(map(outcome_of, eliminated)) == {"complete": 2, "pruned": 3}
    assert "eliminated after 2 seeds" in eliminated[-1].user_attrs[END]["reason"]
    assert not any(trial.state == TrialState.WAITING for trial in eliminated)
    ended = {
        event.trial for event in read_events(driver.study.folder / "outbox").events if event.kind == "end"
    }
    assert ended == {*waves, ahead[2]}, "retrainings that never ran have no run in MLflow"
    driver.report(ahead[0], 4, 0.3), driver.report(ahead[1], 4, 0.3)
    finished = driver.finish(lambda number: 0.3)
    assert sum(outcome_of(trial) == "complete" for trial in finished.trials()) == 2 + 5 + 5


def test_race_resumes_after_a_kill_without_repeating_a_retraining(study: Study) -> None:
    plan = plan_for(study, 3, 3)
    driver = racing(study, plan)
    for _ in range(2):
        driver.report(driver.controller.next_trial().number, 4, 0.3)
    running = driver.controller.next_trial().number
    driver.report(running, 2, 0.3)
    driver.close()
    again = racing(study, plan)
    assert again.controller.next_trial().number == running
    again.report(running, 4, 0.3)
    trials = again.finish(lambda number: 0.3).trials()
    assert len(trials) == 9
    assert all(outcome_of(trial) == "complete" for trial in trials)
    assert racing(study, plan).controller.finished


def test_retraining_withdrawn_before_a_kill_is_not_run(study: Study) -> None:
    plan = plan_for(study, 2, 2)
    driver = racing(study, plan)
    waiting = driver.study.trials()[3]
    end = {"outcome": "pruned", "reason": "", "step": 0, "metrics": {}}
    driver.study.storage.set_trial_user_attr(waiting._trial_id, END, end)
    driver.close()
    trials = racing(study, plan).finish(lambda number: 0.3).trials()
    assert Counter(map(outcome_of, trials)) == {"complete": 4, "pruned": 1}, "its seed is queued again"


def test_progress_names_a_retraining_by_its_trial_and_seed(study: Study) -> None:
    driver = racing(study, plan_for(study, 1, 2))
    retraining = driver.study.trials()[0]
    assert trial_name(retraining) == "trial 4 with seed 1"
    assert trial_name(study.trials()[3]) == "trial 3"


def test_added_seeds_and_candidates_keep_finished_retrainings(study: Study) -> None:
    racing(study, plan_for(study, 2, 2)).finish(lambda number: 0.3)
    plan = plan_for(study, 3, 3)
    trials = racing(study, plan).finish(lambda number: 0.3).trials()
    assert len(trials) == 9
    values = measured(plan, retrainings(trials), {"val_accuracy": "maximize"})
    assert all(value is not None for of_candidate in values.values() for value in of_candidate)


def test_failed_retraining_is_retried_and_a_diverged_one_is_not(study: Study) -> None:
    plan = plan_for(study, 2, 2)
    driver = racing(study, plan)
    lost, diverged = driver.controller.next_trial().number, driver.controller.next_trial().number
    driver.controller.lost(lost, "its node is gone")
    driver.diverge(diverged)
    trials = driver.finish(lambda number: 0.3).trials()
    with pytest.raises(ProxytuneError, match=r"1 retrainings failed.*candidate 4 with seed 1.*retries them"):
        concluded(study, plan, trials)
    again = racing(study, plan)
    assert point(again, again.controller.next_trial().number) == (4, 1)
    again.controller.requeue_live()
    found = concluded(study, plan, again.finish(lambda number: 0.3).trials())
    assert found.winner == 4
    eliminated = found.candidates[-1]
    assert (eliminated.trial, eliminated.eliminated_after) == (3, 1)
    assert eliminated.reason == "diverged with seed 1"
    assert eliminated.values == ()
    assert eliminated.interval is None
