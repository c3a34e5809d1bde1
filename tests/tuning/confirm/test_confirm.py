"""Confirming: who races, how it goes on after a kill, who wins, and that the test split opens once."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from proxytune.datasets.held_out import recorded_openings
from proxytune.tuning.cli import cli
from proxytune.tuning.confirm.candidates import candidates, fresh_seeds, without_seed
from proxytune.tuning.confirm.confirm import confirm_study, result_on_test
from proxytune.tuning.confirm.outcome import conclude
from proxytune.tuning.confirm.retraining import Plan, Race, measured, retraining_spec, retrainings
from proxytune.tuning.confirm.test_split import accuracies_on_test
from proxytune.tuning.errors import HeldError, InputError, ProxytuneError, StorageError
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.run.progress import trial_name
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.checkpoints import Checkpoints
from proxytune.tuning.store.confirmation import (
    CONFIRMATION,
    Candidate,
    Confirmation,
    TestResult,
    read_confirmation,
)
from proxytune.tuning.store.lease import Lease
from proxytune.tuning.store.study import Study, open_study
from proxytune.tuning.store.summary import outcome_of
from proxytune.tuning.store.test_split import read_openings
from proxytune.tuning.trial.trial_run import TrialRun, TrialUpdate

SPACE = {"model.num_proxies": {"choice": [2, 4, 8]}, "model.dropout": {"low": 0.0, "high": 0.3}}
SPEEDS = {"train_sequences_per_second": 100.0, "inference_sequences_per_second": 900.0}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., StudySpec]:
    def spec(**search: object) -> StudySpec:
        values = {
            "name": "small",
            "task": {"name": "listops-mini", "train_examples": 256},
            "model": {"num_layers": 1, "embedding_dim": 16, "feedforward_dim": 16, "num_proxies": 4},
            "training": {
                "steps": 4,
                "warmup_steps": 2,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "eval_every": 2,
            },
            "search": {"space": SPACE, "stopping": {"name": "none"}, "trials": 6} | search,
            "storage": str(tmp_path / "studies"),
        }
        return parse_study(values, "test")

    return spec


class Driver:
    """Opens a study as `run_study` does, without Ray; what its trials reach is made up."""

    def __init__(
        self, spec: StudySpec, make_controller: Callable[..., StudyController] = StudyController
    ) -> None:
        self.study = begin_study(spec)
        self.outbox = Outbox(spec.folder / "outbox")
        self.controller = make_controller(spec, self.study.optuna, self.study.storage, self.outbox)
        self.controller.reconcile()

    def die(self) -> None:
        self.outbox.close()

    def report(self, number: int, step: int, accuracy: float, loss: float = 1.0) -> bool:
        metrics = {"val_accuracy": accuracy, "val_loss": loss, MEMORY: 3.0, "flops_per_sequence": 5.0}
        outcome = "complete" if step == 4 else "running"
        return self.controller.receive(number, TrialUpdate(step=step, metrics=metrics, outcome=outcome), {})

    def diverge(self, number: int) -> bool:
        return self.controller.receive(number, TrialUpdate(step=1, outcome="diverged", reason="NaN"), {})

    def finish(self, accuracy: Callable[[int], float]) -> Study:
        while (assignment := self.controller.next_trial()) is not None:
            self.report(assignment.number, 4, accuracy(assignment.number))
        self.die()
        return self.study


def searched(spec: StudySpec, accuracies: list[float]) -> Study:
    return Driver(spec).finish(lambda number: accuracies[number])


def plan_for(study: Study, top: int, seeds: int) -> Plan:
    chosen = candidates(study, top)
    return Plan({trial.number: without_seed(trial) for trial in chosen}, fresh_seeds(study, seeds))


def racing(study: Study, plan: Plan) -> Driver:
    return Driver(retraining_spec(study.spec, plan), functools.partial(Race, plan))


def point(driver: Driver, number: int) -> tuple[int, int]:
    attributes = driver.study.trials()[number].user_attrs
    return attributes["candidate"], attributes["seed"]


def concluded(study: Study, plan: Plan, trials, memory: dict[int, float] | None = None) -> Confirmation:
    efficiency = {
        number: SPEEDS | {MEMORY: (memory or {}).get(number, 3.0), "flops_per_sequence": 5.0}
        for number in plan.candidates
    }
    chosen = {trial.number: trial for trial in candidates(study, len(plan.candidates))}
    return conclude(study, chosen, plan, retrainings(trials), efficiency, len(trials))


# Candidates.


def test_the_best_feasible_trials_are_candidates_best_first(make) -> None:
    study = searched(make(trials=4, constraints={"val_loss": "<= 2"}), [0.1, 0.4, 0.2, 0.3])
    assert [trial.number for trial in candidates(study, 3)] == [1, 3, 2]
    assert len(candidates(study, 99)) == 4
    lowest = searched(
        make(trials=3, objectives={"val_accuracy": "minimize"}).model_copy(update={"name": "lowest"}),
        [3, 1, 2],
    )
    assert [trial.number for trial in candidates(lowest, 2)] == [1, 2]


def test_a_configuration_is_confirmed_once_whatever_its_seed(make) -> None:
    params = {"model.num_proxies": 4, "model.dropout": 0.1}
    space = SPACE | {"training.seed": {"choice": [0, 1, 3]}}
    queue = [params | {"training.seed": 1}, params | {"training.seed": 3}, params | {"model.dropout": 0.2}]
    study = searched(make(trials=3, space=space, enqueue=queue), [0.2, 0.3, 0.1])
    assert [trial.number for trial in candidates(study, 5)] == [1, 2]
    assert not set(fresh_seeds(study, 4)) & {0, 1, 3}


def test_with_several_objectives_the_pareto_front_is_confirmed(make) -> None:
    spec = make(trials=4, objectives={"val_accuracy": "maximize", "val_loss": "minimize"})
    driver = Driver(spec)
    for accuracy, loss in [(0.3, 3.0), (0.2, 2.0), (0.2, 2.5), (0.1, 1.0)]:
        assignment = driver.controller.next_trial()
        driver.report(assignment.number, 4, accuracy, loss)
    driver.die()
    assert {trial.number for trial in candidates(driver.study, 5)} == {0, 1, 3}
    assert {trial.number for trial in candidates(driver.study, 2)} == {0, 3}  # the ends of the front


def test_without_candidates_the_user_hears_why(make) -> None:
    with pytest.raises(InputError, match="no trial of the full budget yet"):
        candidates(begin_study(make()), 5)
    study = searched(
        make(trials=2, constraints={"val_accuracy": ">= 0.9"}).model_copy(update={"name": "strict"}),
        [0.5, 0.7],
    )
    with pytest.raises(InputError, match=r"trial 1 comes nearest: val_accuracy 0\.7 is not >= 0\.9"):
        candidates(study, 5)


def test_fresh_seeds_are_never_the_study_s(make) -> None:
    assert fresh_seeds(begin_study(make()), 3) == (1, 2, 3)


# The race, as the controller drives it.


@pytest.fixture
def study(make) -> Study:
    return searched(make(), [0.30, 0.31, 0.32, 0.33, 0.34, 0.10])


def test_every_candidate_gets_every_seed_wave_by_wave_with_its_own_configuration(study: Study) -> None:
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


def test_a_clearly_worse_candidate_loses_what_is_queued_and_what_runs(study: Study) -> None:
    plan = plan_for(study, 3, 5)
    driver = racing(study, plan)
    values = {4: 0.30, 3: 0.30, 2: 0.10}
    waves = [driver.controller.next_trial().number for _ in range(6)]
    ahead = [driver.controller.next_trial().number for _ in range(3)]  # free slots go on to the third seed
    assert [point(driver, number)[0] for number in ahead] == [4, 3, 2]
    for number in waves:
        candidate, seed = point(driver, number)
        driver.report(number, 4, values[candidate] + 0.001 * (-1) ** (candidate + seed))
    assert driver.report(ahead[2], 2, 0.1), "it is told to stop at its next update"
    assert not driver.report(ahead[0], 2, 0.3)
    trials = driver.study.trials()
    of_the_loser = [trial for trial in trials if trial.user_attrs["candidate"] == 2]
    assert Counter(map(outcome_of, of_the_loser)) == {"complete": 2, "pruned": 3}
    assert "eliminated after 2 seeds" in of_the_loser[-1].user_attrs[END]["reason"]
    assert not any(trial.state == TrialState.WAITING for trial in of_the_loser)
    begun = {
        event.trial for event in read_events(driver.study.folder / "outbox").events if event.kind == "end"
    }
    assert begun == {*waves, ahead[2]}, "what never ran has no run in MLflow"
    driver.report(ahead[0], 4, 0.3), driver.report(ahead[1], 4, 0.3)
    left = driver.finish(lambda number: 0.3)
    assert sum(outcome_of(trial) == "complete" for trial in left.trials()) == 2 + 5 + 5


def test_after_a_kill_it_goes_on_without_repeating_a_point(study: Study) -> None:
    plan = plan_for(study, 3, 3)
    driver = racing(study, plan)
    for _ in range(2):
        driver.report(driver.controller.next_trial().number, 4, 0.3)
    running = driver.controller.next_trial().number
    driver.report(running, 2, 0.3)
    driver.die()
    again = racing(study, plan)
    assert again.controller.next_trial().number == running
    again.report(running, 4, 0.3)
    trials = again.finish(lambda number: 0.3).trials()
    assert len(trials) == 9
    assert all(outcome_of(trial) == "complete" for trial in trials)
    assert racing(study, plan).controller.finished


def test_killed_between_a_withdrawal_s_end_and_its_state_it_is_not_run(study: Study) -> None:
    plan = plan_for(study, 2, 2)
    driver = racing(study, plan)
    waiting = driver.study.trials()[3]
    end = {"outcome": "pruned", "reason": "", "step": 0, "metrics": {}}
    driver.study.storage.set_trial_user_attr(waiting._trial_id, END, end)
    driver.die()
    trials = racing(study, plan).finish(lambda number: 0.3).trials()
    assert Counter(map(outcome_of, trials)) == {"complete": 4, "pruned": 1}, "and its point is queued anew"


def test_progress_names_a_retraining_by_its_trial_of_the_study_and_its_seed(study: Study) -> None:
    driver = racing(study, plan_for(study, 1, 2))
    retraining = driver.study.trials()[0]
    assert trial_name(retraining) == "trial 4 with seed 1"
    assert trial_name(study.trials()[3]) == "trial 3"


def test_more_seeds_and_candidates_keep_what_is_known(study: Study) -> None:
    racing(study, plan_for(study, 2, 2)).finish(lambda number: 0.3)
    plan = plan_for(study, 3, 3)
    trials = racing(study, plan).finish(lambda number: 0.3).trials()
    assert len(trials) == 9
    assert all(
        value is not None
        for own in measured(plan, retrainings(trials), {"val_accuracy": "maximize"}).values()
        for value in own
    )


def test_a_retraining_that_failed_is_tried_again_and_one_that_diverged_is_not(study: Study) -> None:
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
    out = found.candidates[-1]
    assert (out.trial, out.eliminated_after, out.reason) == (3, 1, "diverged with seed 1")
    assert out.values == ()
    assert out.interval is None


# Who wins.


def outcome(
    study: Study,
    accuracies: dict[int, float],
    memory: dict[int, float] | None = None,
    noise: float = 0.004,
) -> Confirmation:
    """Five seeds of each, with a noise that averages to nothing and is the opposite for every other candidate."""
    plan = plan_for(study, len(accuracies), 5)
    driver = racing(study, plan)

    def accuracy(number: int) -> float:
        candidate, seed = point(driver, number)
        return accuracies[candidate] + noise * (-1) ** (candidate + seed) * (seed < 5)

    return concluded(study, plan, driver.finish(accuracy).trials(), memory)


def test_a_clear_winner_wins_and_its_gap_is_the_search_s_optimism(study: Study) -> None:
    found = outcome(study, {4: 0.25, 3: 0.30, 2: 0.20})
    assert (found.winner, found.tied) == (3, (3,))
    assert [candidate.trial for candidate in found.candidates] == [3, 4, 2]
    best = found.best
    assert best.search_value == 0.33
    assert found.gap == pytest.approx(0.33 - best.mean)
    low, high = best.interval
    assert low < 0.30 < high
    assert best.seeds == (1, 2, 3, 4, 5)
    assert found.candidates[-1].eliminated_after == 2
    assert len(found.candidates[-1].values) == 2
    assert Confirmation.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_of_tied_candidates_the_cheapest_wins(study: Study) -> None:
    memory = {4: 9.0, 3: 2.0, 2: 1.0}
    found = outcome(study, {4: 0.3, 3: 0.3, 2: 0.1}, memory)
    assert found.winner == 3
    assert set(found.tied) == {3, 4}
    dearer = outcome(study, {4: 0.3, 3: 0.3, 2: 0.1}, memory | {3: 10.0})
    assert dearer.winner == 4


def test_a_candidate_whose_mean_breaks_a_constraint_does_not_win(make) -> None:
    spec = make(trials=2, constraints={"val_accuracy": ">= 0.29"})
    study = searched(spec, [0.30, 0.31])
    found = outcome(study, {1: 0.285, 0: 0.30}, noise=0.03)
    assert found.winner == 0
    assert "val_accuracy" in found.candidates[1].reason
    other = searched(spec.model_copy(update={"name": "none-left"}), [0.30, 0.31])
    with pytest.raises(ProxytuneError, match="study none-left: every candidate was eliminated"):
        outcome(other, {1: 0.1, 0: 0.2})


def test_with_several_objectives_the_dominated_leave_and_the_first_one_chooses(make) -> None:
    spec = make(trials=3, objectives={"val_accuracy": "maximize", "val_loss": "minimize"})
    searched_with = Driver(spec)
    for accuracy, loss in [(0.3, 3.0), (0.25, 2.0), (0.2, 1.0)]:
        searched_with.report(searched_with.controller.next_trial().number, 4, accuracy, loss)
    searched_with.die()
    study = searched_with.study
    plan = plan_for(study, 3, 4)
    driver = racing(study, plan)
    on_fresh_seeds = {0: (0.30, 3.0), 1: (0.20, 2.0), 2: (0.25, 1.0)}  # 1 is dominated by 2 in truth
    while (assignment := driver.controller.next_trial()) is not None:
        candidate, seed = point(driver, assignment.number)
        accuracy, loss = on_fresh_seeds[candidate]
        driver.report(
            assignment.number, 4, accuracy + 0.001 * (-1) ** (candidate + seed), loss + 0.01 * (seed % 2)
        )
    driver.die()
    found = concluded(study, plan, driver.study.trials(), {0: 9.0, 1: 1.0, 2: 1.0})
    assert (found.winner, found.tied) == (0, (0,))
    out = {candidate.trial: candidate.eliminated_after for candidate in found.candidates}
    assert out == {0: None, 1: 2, 2: None}
    assert found.candidates[0].metrics["val_loss"] == pytest.approx(3.005)


# The test split.


@pytest.fixture
def trained(make) -> tuple[Study, Confirmation, list[Checkpoints]]:
    """A confirmed study whose retrainings are real, though short."""
    study = searched(make(trials=2), [0.3, 0.2])
    plan = plan_for(study, 1, 2)
    driver = racing(study, plan)
    while (assignment := driver.controller.next_trial()) is not None:
        run = TrialRun(assignment.spec, assignment.checkpoints)
        while not driver.controller.receive(assignment.number, run.advance(), {}):
            pass
    driver.die()
    trials = driver.study.trials()
    return study, concluded(study, plan, trials), [driver.study.checkpoints(trial) for trial in trials]


def test(trained, **options) -> TestResult:
    study, confirmation, checkpoints = trained
    evaluate = functools.partial(accuracies_on_test, log_folder=study.folder)
    asked = {"who": "somebody", "again": False, "say": lambda line: None} | options
    return result_on_test(study, confirmation, checkpoints, asked.pop("evaluate", evaluate), **asked)


test.__test__ = False


def test_the_test_split_is_opened_once_and_recorded_with_its_result(trained) -> None:
    study, confirmation, _ = trained
    result = test(trained)
    assert result.openings == 1
    assert len(result.values) == 2
    assert result.mean == pytest.approx(np.mean(result.values))
    assert result.num_examples == 2000
    (opening,) = read_openings(study)
    assert opening["by"] == "somebody"
    assert opening["subject"]["trial"] == confirmation.winner
    (logged,) = recorded_openings(study.folder)
    assert logged["by"] == "somebody"
    assert test(trained) == result, "asked again it is remembered"
    assert len(recorded_openings(study.folder)) == 1


def test_a_second_opening_needs_again_and_is_counted(trained) -> None:
    study, _, _ = trained
    first = test(trained)
    second = test(trained, again=True)
    assert (second.openings, second.values) == (2, first.values)
    assert [opening["result"]["openings"] for opening in read_openings(study)] == [1, 2]
    assert len(recorded_openings(study.folder)) == 2


def test_other_models_are_refused_without_again(trained) -> None:
    study, _, checkpoints = trained
    test(trained)
    manifest = Path(next(checkpoints[0].paths()).url) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "00'))
    with pytest.raises(InputError, match=r"opened its test split at .* for trial 0; .*again"):
        test(trained)
    assert len(recorded_openings(study.folder)) == 1


def test_killed_after_the_record_and_before_the_result_it_goes_on_with_the_same_opening(trained) -> None:
    study, _, _ = trained

    def killed(models, by: str, reason: str) -> Iterator[tuple[int, float]]:
        yield 2000, 0.5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        test(trained, evaluate=killed)
    (opening,) = read_openings(study)
    assert opening["result"] is None, "recorded before it is opened"
    result = test(trained)
    assert result.openings == 1
    assert 0.5 not in result.values


def test_a_lost_checkpoint_is_told_before_anything_is_opened(trained) -> None:
    study, _, checkpoints = trained
    for path in checkpoints[1].paths():
        (path / "manifest.json").delete()
    with pytest.raises(StorageError, match="checkpoint is gone or damaged"):
        test(trained)
    assert read_openings(study) == []


def test_a_study_that_is_being_run_is_not_confirmed(study: Study) -> None:
    lease = Lease(study.storage, study.name)
    lease.acquire()
    try:
        with pytest.raises(HeldError, match="small is held by process"):
            confirm_study(study, top=2, num_seeds=2, who="somebody")
    finally:
        lease.release()


def test_another_plan_is_refused_before_anything_is_retrained(trained) -> None:
    study, confirmation, _ = trained
    result = test(trained)
    study.optuna.set_user_attr(CONFIRMATION, confirmation.to_json() | {"test": vars(result)})
    known = confirm_study(study, top=1, num_seeds=2, who="somebody")
    assert known == read_confirmation(study)
    assert known.test == result
    before = len(open_study("small.confirm", study.spec.storage).trials())
    with pytest.raises(InputError, match="again"):
        confirm_study(study, top=1, num_seeds=3, who="somebody")
    with pytest.raises(InputError, match="again"):
        confirm_study(study, top=2, num_seeds=2, who="somebody")
    assert len(open_study("small.confirm", study.spec.storage).trials()) == before


def test_an_unconfirmed_study_has_no_confirmation(study: Study) -> None:
    assert read_confirmation(study) is None
    assert Candidate.__dataclass_params__.frozen


# As a user runs it.


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-c", "from proxytune.tuning.cli import main; main()", *map(str, arguments)]


@pytest.mark.timeout(600)
def test_confirm_on_ray_from_the_command_line(make, capsys: pytest.CaptureFixture[str]) -> None:
    study = searched(make(trials=2), [0.30, 0.31])
    storage = study.spec.storage
    arguments = ("confirm", "small", "--top", "9", "--seeds", "2", "--storage", str(storage))
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    assert "study small has 2 candidates, not 9" in done.stderr
    assert "the test split is opened for trial" in done.stderr
    assert "test split (2,000 examples, 2 models)" in done.stdout
    found = read_confirmation(open_study("small", storage))
    assert found.test.openings == 1
    assert all(candidate.efficiency["train_sequences_per_second"] > 0 for candidate in found.candidates)
    assert len(recorded_openings(study.folder)) == 1
    cli.main([*arguments, "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.to_json()))
    assert len(recorded_openings(study.folder)) == 1


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_killed_with_sigkill_the_same_command_goes_on(make) -> None:
    study = searched(
        make(trials=2).model_copy(update={"training": make().training | {"steps": 300, "eval_every": 50}}),
        [0.3, 0.2],
    )
    storage = study.spec.storage
    arguments = command("confirm", "small", "--top", 2, "--seeds", 3, "--storage", storage)
    driver = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            trials = open_study("small.confirm", storage).trials()
        except (InputError, StorageError):
            trials = []
        if sum(outcome_of(trial) == "complete" for trial in trials) >= 2:
            break
        time.sleep(0.3)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {trial.number: trial.datetime_complete for trial in trials if outcome_of(trial) == "complete"}
    assert before
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=550, check=False)
    assert done.returncode == 0, done.stderr
    after = open_study("small.confirm", storage).trials()
    assert len(after) == 6
    assert all(after[number].datetime_complete == when for number, when in before.items())
    assert read_confirmation(open_study("small", storage)).test.openings == 1
