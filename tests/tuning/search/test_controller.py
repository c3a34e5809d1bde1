"""The state table: what each event of a trial's life leaves in Optuna's storage and in the outbox."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.search.running import Assignment
from proxytune.tuning.store.steering import cancel_trial, enqueue, extend, pause, request_stop
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.summary import outcome_of
from proxytune.tuning.store.winner import leading
from proxytune.tuning.trial.trial_run import TrialUpdate


class Driver:
    """Opens a study as `run` does, without Ray."""

    def __init__(self, spec) -> None:
        self.study: Study = begin_study(spec)
        self.outbox = Outbox(spec.folder / "outbox")
        self.controller = StudyController(spec, self.study.optuna, self.study.storage, self.outbox)
        self.controller.reconcile()

    def die(self) -> None:
        """As kill -9 does: nothing is told, only the lock on the journal is gone."""
        self.outbox.close()

    def begin(self) -> Assignment:
        assignment = self.controller.next_trial()
        assert assignment is not None
        return assignment

    def say(self, number: int, step: int, accuracy: float | None = None, **update) -> bool:
        metrics = None if accuracy is None else {"val_accuracy": accuracy, "val_loss": 1.0}
        return self.controller.receive(number, TrialUpdate(step=step, metrics=metrics, **update), {})

    def states(self) -> list[TrialState]:
        return [trial.state for trial in self.study.trials()]

    def events(self, kind: str) -> list[dict]:
        return [event for event in read_events(self.study.folder / "outbox").events if event.kind == kind]


OBJECTIVES = {
    "one": [],
    "two": ["search.objectives={val_accuracy: maximize, val_loss: minimize}"],
}


@pytest.fixture(params=OBJECTIVES)
def spec(request, make_spec):
    return make_spec("search.stopping.min_steps=10", *OBJECTIVES[request.param])


def test_the_enqueued_setting_goes_first(spec) -> None:
    assert Driver(spec).begin().spec.model["num_proxies"] == 4


def test_a_finished_trial_is_told_its_values(spec) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    assert not driver.say(number, 10, 0.2)
    assert driver.say(number, 30, 0.4, outcome="complete")
    trial = driver.study.trials()[number]
    assert trial.state == TrialState.COMPLETE
    assert trial.values[0] == 0.4
    assert [event.step for event in driver.events("report")] == [10, 30]
    assert driver.events("end")[0].outcome == "complete"


def test_a_trial_stopped_at_a_rung_is_pruned_with_what_it_reported(spec) -> None:
    driver = Driver(spec)
    good, bad = driver.begin().number, driver.begin().number
    assert not driver.say(good, 10, 0.5)
    assert driver.say(bad, 10, 0.1)
    trial = driver.study.trials()[bad]
    assert trial.state == TrialState.PRUNED
    if len(spec.search.objectives) == 1:
        assert trial.intermediate_values == {10: 0.1}
    assert driver.events("end")[0].outcome == "pruned"
    assert bad not in leading(driver.study)


@pytest.mark.parametrize("outcome", ["diverged", "out_of_memory", "failed"])
def test_a_trial_that_fails_is_told_no_value(spec, outcome: str) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    assert driver.say(number, 5, outcome=outcome, reason="because")
    trial = driver.study.trials()[number]
    assert (trial.state, trial.values) == (TrialState.FAIL, None)
    assert outcome_of(trial) == outcome
    assert trial.user_attrs["end"]["reason"] == "because"


@pytest.mark.parametrize("step", [0, 10])
def test_a_trial_out_of_memory_is_told_as_breaking_the_memory_constraint(make_spec, step: int) -> None:
    metric = "train_memory_mib_per_sequence"
    driver = Driver(make_spec(f"search.constraints={{{metric}: '<= 4000'}}", "search.stopping.min_steps=10"))
    number = driver.begin().number
    if step:
        metrics = {"val_accuracy": 0.2, "val_loss": 1.0, metric: 3.0}
        driver.controller.receive(number, TrialUpdate(step=step, metrics=metrics), {})
    assert driver.say(number, step + 1, outcome="out_of_memory", reason="out of memory")
    trial = driver.study.trials()[number]
    assert trial.state == TrialState.FAIL
    assert trial.constraints[metric] > 0


def test_a_trial_without_room_for_its_checkpoint_is_handed_back_and_stops_the_driver(spec) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    with pytest.raises(StorageError, match=f"trial {number} cannot keep a checkpoint: /x: No space left"):
        driver.say(number, 5, outcome="interrupted", out_of_room=True, reason="/x: No space left on device")
    trial = driver.study.trials()[number]
    assert (trial.state, trial.values) == (TrialState.WAITING, None)
    assert number not in driver.controller.live


def test_a_study_stored_before_a_key_existed_goes_on(make_spec) -> None:
    spec = make_spec()
    study = begin_study(spec)
    stored = json.loads(study.optuna.user_attrs["spec"])
    del stored["training"]["compile"]
    study.optuna.set_user_attr("spec", json.dumps(stored))
    assert begin_study(spec).budget == spec.search.trials


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_not_finite_is_diverged(spec, value: float) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    assert driver.say(number, 30, value, outcome="complete")
    assert outcome_of(driver.study.trials()[number]) == "diverged"


@pytest.mark.parametrize("step", [5, 10], ids=["between rungs", "at a rung"])
def test_an_objective_that_is_not_finite_ends_its_trial_at_once(spec, step: int) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    assert driver.say(number, step, math.nan)
    trial = driver.study.trials()[number]
    assert (trial.state, trial.values, outcome_of(trial)) == (TrialState.FAIL, None, "diverged")


def test_a_worker_lost_for_good_fails_its_trial(spec) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    driver.controller.again(number)
    driver.controller.lost(number, "killed")
    assert outcome_of(driver.study.trials()[number]) == "failed"
    assert [event.attempt for event in driver.events("trial")] == [1, 2]
    assert driver.say(number, 10, 0.9)  # a late word of the lost worker changes nothing
    assert outcome_of(driver.study.trials()[number]) == "failed"


def test_a_stopped_study_hands_its_trials_back_and_goes_on_with_them(spec) -> None:
    driver = Driver(spec)
    first, second = driver.begin(), driver.begin()
    driver.say(first.number, 10, 0.3)
    driver.controller.stop("SIGINT")
    assert driver.controller.next_trial() is None
    assert driver.say(first.number, 12)
    driver.controller.requeue_live()
    assert driver.states() == [TrialState.WAITING] * 2
    driver.die()

    again = Driver(spec)
    assert [again.begin().number, again.begin().number] == [first.number, second.number]
    assert again.controller.live[first.number].attempt == 2
    assert again.controller.live[first.number].params == dict(again.study.trials()[0].params)


def test_a_killed_driver_leaves_nothing_running_for_the_next(spec) -> None:
    driver = Driver(spec)
    finished, running = driver.begin().number, driver.begin().number
    driver.say(finished, 30, 0.4, outcome="complete")
    driver.say(running, 10, 0.5)
    driver.die()

    again = Driver(spec)
    assert again.states() == [TrialState.COMPLETE, TrialState.WAITING]
    assert again.begin().number == running
    again.say(running, 10, 0.1)  # reported again from the checkpoint: the first report stands
    assert len(again.events("report")) == 2
    again.say(running, 30, 0.6, outcome="complete")
    assert again.study.trials()[running].values[0] == 0.6


def test_a_driver_killed_between_the_end_and_telling_it_tells_it_at_the_next_start(spec, monkeypatch) -> None:
    driver = Driver(spec)
    number = driver.begin().number
    monkeypatch.setattr(
        driver.study.optuna, "tell", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        driver.say(number, 30, 0.4, outcome="complete")
    driver.die()
    again = Driver(spec)
    assert again.states() == [TrialState.COMPLETE]
    assert again.study.trials()[number].values[0] == 0.4
    assert Counter(event.outcome for event in again.events("end"))["complete"] == 1


def test_rungs_survive_a_resume(spec) -> None:
    driver = Driver(spec)
    good = driver.begin().number
    driver.say(good, 10, 0.9)
    driver.die()
    again = Driver(spec)
    again.begin()
    new = again.begin().number
    assert again.say(new, 10, 0.5)  # the old entry still stands in the rung
    assert outcome_of(again.study.trials()[new]) == "pruned"


def test_the_budget_counts_interrupted_trials_once_and_can_grow(make_spec) -> None:
    driver = Driver(make_spec("search.trials=2"))
    driver.begin()
    driver.die()
    driver = Driver(make_spec("search.trials=2"))
    for _ in range(2):
        driver.say(driver.begin().number, 30, 0.3, outcome="complete")
    assert driver.controller.finished
    driver.die()
    driver = Driver(make_spec("search.trials=3"))
    assert driver.begin().number == 2
    assert driver.controller.finished


def test_the_same_seed_proposes_the_same_also_after_a_resume(make_spec) -> None:
    def params(storage: str, kill_after: int | None) -> list[dict]:
        seen, driver = [], Driver(make_spec("search.trials=14", f"storage={storage}"))
        while not driver.controller.finished:
            assignment = driver.begin()
            accuracy = 0.5 - abs(assignment.spec.model["dropout"] - 0.2)
            driver.say(assignment.number, 30, accuracy, outcome="complete")
            if assignment.number == kill_after:
                driver.die()
                driver = Driver(make_spec("search.trials=14", f"storage={storage}"))
        seen = [dict(trial.params) for trial in driver.study.trials()]
        return seen

    root = Path(make_spec().storage)
    unbroken = params(json.dumps(str(root / "a")), None)
    assert params(json.dumps(str(root / "b")), 11) == unbroken
    assert len({json.dumps(one) for one in unbroken}) == 14


def test_constraints_keep_an_infeasible_trial_from_winning(make_spec) -> None:
    driver = Driver(make_spec('search.constraints={val_loss: "<= 0.5"}'))
    number = driver.begin().number
    driver.say(number, 30, 0.9, outcome="complete")
    assert leading(driver.study) == []
    assert driver.study.trials()[number].state == TrialState.COMPLETE


def test_a_configuration_predicted_over_the_memory_budget_is_never_started(make_spec) -> None:
    constraint = 'search.constraints={train_memory_mib_per_sequence: "<= 0.001"}'
    driver = Driver(make_spec(constraint, "search.trials=3"))
    assert driver.controller.next_trial() is None
    assert [outcome_of(trial) for trial in driver.study.trials()] == ["infeasible"] * 3
    assert all(trial.constraints["train_memory_mib_per_sequence"] > 0 for trial in driver.study.trials())
    assert driver.events("trial") == driver.events("end") == []


def test_a_stop_from_another_terminal_lets_trials_end_and_now_interrupts_them(spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(spec)
    first, second = driver.begin().number, driver.begin().number
    request_stop(driver.study, now=False)
    assert driver.controller.next_trial() is None
    assert not driver.say(first, 5)
    assert driver.say(first, 30, 0.4, outcome="complete")
    request_stop(driver.study, now=True)
    assert driver.say(second, 5)
    assert driver.states() == [TrialState.COMPLETE, TrialState.WAITING]
    assert [event.text for event in driver.events("log")] == ["stop", "stop now"]
    driver.die()
    assert Driver(spec).begin().number == second


def test_extending_and_enqueueing_take_effect_while_it_runs(make_spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(make_spec("search.trials=1"))
    driver.begin()
    assert driver.controller.finished
    with pytest.raises(InputError, match="trials: 0 is below the 1 that study small has started"):
        extend(driver.study, 0)
    with pytest.raises(InputError, match="outside its domain"):
        enqueue(driver.study, {"model.dropout": 0.9})
    with pytest.raises(InputError, match=r"model\.dropout"):
        enqueue(driver.study, {"model.dropuot": 0.1})
    extend(driver.study, 2)
    enqueue(driver.study, {"model.dropout": 0.25})
    number = driver.begin().number
    assert driver.controller.live[number].params["model.dropout"] == 0.25
    (budget,), (log,) = driver.events("budget"), driver.events("log")
    assert budget.trials == 2
    assert log.text == f"enqueued trial {number}"
    assert "@" in budget.who
    assert "@" in log.who


def test_an_extension_by_mistake_is_undone_but_not_below_what_has_started(make_spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(make_spec("search.trials=2"))
    driver.begin()
    extend(driver.study, 3000)
    driver.begin(), driver.begin()
    assert driver.study.budget == 3000
    with pytest.raises(InputError, match="trials: 2 is below the 3 that study small has started"):
        extend(driver.study, 2)
    extend(driver.study, 3)
    assert driver.study.budget == 3
    assert driver.controller.next_trial() is None
    driver.die()
    assert Driver(make_spec("search.trials=2")).study.budget == 3, "the same file does not undo it"
    assert begin_study(make_spec("search.trials=4")).budget == 4, "a raised one does"


def test_a_pause_hands_trials_back_and_a_resume_takes_them_up_again(spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(spec)
    number = driver.begin().number
    pause(driver.study, on=True)
    assert driver.say(number, 5)
    assert driver.controller.next_trial() is None
    assert not driver.controller.finished
    pause(driver.study, on=False)
    assert driver.begin().number == number
    assert [event.outcome for event in driver.events("end")] == ["paused"]
    assert len(driver.events("pause")) == len(driver.events("resume")) == 1


@pytest.mark.parametrize("sampler", ["random", "grid", "qmc", "tpe", "gp", "cmaes", "nsga2", "curve"])
def test_every_sampler_proposes_within_the_space_and_the_same_after_a_resume(make_spec, sampler: str) -> None:
    space = "{model.num_proxies: {choice: [2, 4, 8]}, model.dropout: {choice: [0.0, 0.1, 0.2, 0.3]}}"
    if sampler in ("gp", "cmaes"):
        space = "{model.num_proxies: {low: 2, high: 8}, model.dropout: {low: 0.0, high: 0.3}}"

    def params(storage: str, resume_at: int) -> list[dict]:
        spec = make_spec(
            f"search.space={space}", f"search.sampler.name={sampler}", "search.trials=12", "search.enqueue=[]",
            f"storage={json.dumps(str(make_spec().storage / storage))}",
        )  # fmt: skip
        driver = Driver(spec)
        for number in range(12):
            if number == resume_at:
                driver.die()
                driver = Driver(spec)
            assignment = driver.begin()
            driver.say(
                assignment.number, 30, 0.5 - abs(assignment.spec.model["dropout"] - 0.2), outcome="complete"
            )
        return [dict(trial.params) for trial in driver.study.trials()]

    unbroken = params("a", -1)
    assert params("b", 7) == unbroken
    assert all(spec_value in range(2, 9) for one in unbroken if (spec_value := one["model.num_proxies"]))
    if sampler == "grid":
        assert len({json.dumps(one) for one in unbroken}) == 12


def test_a_cancelled_trial_ends_for_good(spec, monkeypatch) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    driver = Driver(spec)
    number, other = driver.begin().number, driver.begin().number
    cancel_trial(driver.study, number)
    assert driver.say(number, 5)
    assert not driver.say(other, 5)
    assert outcome_of(driver.study.trials()[number]) == "stopped"
    with pytest.raises(InputError, match="has ended already"):
        cancel_trial(driver.study, number)
    with pytest.raises(InputError, match="no trial 99"):
        cancel_trial(driver.study, 99)


def test_a_budget_of_training_steps_ends_the_study_at_the_next_reports(make_spec) -> None:
    spec = make_spec("search.max_steps=50", "search.stopping.name=none")
    driver = Driver(spec)
    first, second = driver.begin().number, driver.begin().number
    assert driver.say(first, 30, 0.4, outcome="complete")
    assert not driver.say(second, 10, 0.2)
    driver.die()
    driver = Driver(spec)  # what earlier drivers spent counts
    assert driver.begin().number == second
    assert not driver.say(second, 15)
    assert driver.say(second, 20, 0.3)
    assert driver.controller.finished
    assert outcome_of(driver.study.trials()[second]) == "pruned"


def test_steps_of_a_trial_that_is_handed_back_are_counted_once(make_spec) -> None:
    driver = Driver(make_spec("search.max_steps=40", "search.stopping.name=none"))
    number = driver.begin().number
    for _ in range(5):  # interrupted five times half-way between two reports
        driver.say(number, 10, 0.2)
        driver.say(number, 15)
        driver.controller.requeue_live()
        assert driver.begin().number == number
    assert driver.say(number, 30, 0.4, outcome="complete")
    assert not driver.controller.finished  # 30 of 40, not 30 and 5 for each interruption


def test_a_budget_of_seconds_counts_all_drivers(make_spec, monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("proxytune.tuning.search.limits.time.monotonic", lambda: clock[0])
    spec = make_spec("search.max_seconds=50")
    driver = Driver(spec)
    driver.begin()
    clock[0] += 30
    assert not driver.controller.finished
    driver.die()
    driver = Driver(spec)
    clock[0] += 19
    assert not driver.controller.finished
    clock[0] += 2
    assert driver.controller.finished


def test_hyperband_lets_every_other_trial_pass_the_first_rung(make_spec) -> None:
    driver = Driver(make_spec("search.stopping={name: hyperband, min_steps: 10, reduction_factor: 3}"))
    numbers = [driver.begin().number for _ in range(4)]
    stopped = [driver.say(number, 10, 0.5 - 0.1 * number) for number in numbers]
    assert stopped == [False, False, True, False]  # 0 and 2 share the bracket with a rung, 1 and 3 have none


SPEED = "train_sequences_per_second"


def test_a_measured_speed_that_breaks_a_constraint_ends_the_trial_before_it_trains(make_spec) -> None:
    driver = Driver(make_spec(f"search.constraints={{{SPEED}: '>= 100'}}"))
    slow, fast = driver.begin(), driver.begin()
    assert slow.efficiency == driver.study.folder / "efficiency"
    assert driver.controller.receive(slow.number, TrialUpdate(step=0, profile={SPEED: 99.0}), {})
    assert not driver.controller.receive(fast.number, TrialUpdate(step=0, profile={SPEED: 101.0}), {})
    trial = driver.study.trials()[slow.number]
    assert (trial.state, trial.constraints) == (TrialState.PRUNED, {SPEED: 1.0})
    assert trial.user_attrs["end"]["reason"] == f"measured {SPEED} 99 breaks the constraint"
    assert trial.user_attrs["end"]["metrics"] == {SPEED: 99.0}
    assert driver.events("report") == []


def test_a_trial_that_goes_on_keeps_its_steps_when_it_tells_its_speed_again(make_spec) -> None:
    driver = Driver(
        make_spec(f"search.objectives={{val_loss: minimize, {SPEED}: maximize}}", "search.max_steps=50")
    )
    number = driver.begin().number
    report = {"val_accuracy": 0.2, "val_loss": 1.0, SPEED: 7.0}
    driver.controller.receive(number, TrialUpdate(step=10, metrics=report), {})
    driver.controller.requeue_live()
    assert driver.begin().number == number
    assert not driver.controller.receive(number, TrialUpdate(step=0, profile={SPEED: 7.0}), {})
    assert driver.controller.live[number].step == 10
    driver.controller.receive(number, TrialUpdate(step=30, metrics=report, outcome="complete"), {})
    assert driver.study.trials()[number].values == [1.0, 7.0]


def test_a_study_that_names_no_speed_measures_none(make_spec) -> None:
    assert Driver(make_spec()).begin().efficiency is None
