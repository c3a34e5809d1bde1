"""The winner of a confirmation: the best mean on fresh seeds, or the cheapest of tied candidates."""

import json

import pytest

from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.store.confirmation import Confirmation
from proxytune.tuning.store.study import Study
from tests.tuning.confirm.synthetic import (
    Driver,
    concluded,
    plan_for,
    point,
    racing,
    searched,
)


def outcome(
    study: Study,
    accuracies: dict[int, float],
    memory: dict[int, float] | None = None,
    noise: float = 0.004,
) -> Confirmation:
    """Confirm with five seeds per candidate; the noise averages to zero and alternates between candidates and seeds."""
    plan = plan_for(study, len(accuracies), 5)
    driver = racing(study, plan)

    def accuracy(number: int) -> float:
        candidate, seed = point(driver, number)
        return accuracies[candidate] + noise * (-1) ** (candidate + seed) * (seed < 5)

    return concluded(study, plan, driver.finish(accuracy).trials(), memory)


def test_best_candidate_wins_and_its_gap_is_the_search_optimism(study: Study) -> None:
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


def test_cheapest_of_tied_candidates_wins(study: Study) -> None:
    memory = {4: 9.0, 3: 2.0, 2: 1.0}
    found = outcome(study, {4: 0.3, 3: 0.3, 2: 0.1}, memory)
    assert found.winner == 3
    assert set(found.tied) == {3, 4}
    found = outcome(study, {4: 0.3, 3: 0.3, 2: 0.1}, memory | {3: 10.0})
    assert found.winner == 4


def test_candidate_whose_mean_violates_a_constraint_does_not_win(make) -> None:
    spec = make(trials=2, constraints={"val_accuracy": ">= 0.29"})
    study = searched(spec, [0.30, 0.31])
    found = outcome(study, {1: 0.285, 0: 0.30}, noise=0.03)
    assert found.winner == 0
    assert "val_accuracy" in found.candidates[1].reason
    other = searched(spec.model_copy(update={"name": "none-left"}), [0.30, 0.31])
    with pytest.raises(ProxytuneError, match="study none-left: every candidate was eliminated"):
        outcome(other, {1: 0.1, 0: 0.2})


def test_dominated_candidates_are_eliminated_and_the_first_objective_decides(make) -> None:
    spec = make(trials=3, objectives={"val_accuracy": "maximize", "val_loss": "minimize"})
    search = Driver(spec)
    for accuracy, loss in [(0.3, 3.0), (0.25, 2.0), (0.2, 1.0)]:
        search.report(search.controller.next_trial().number, 4, accuracy, loss)
    search.close()
    study = search.study
    plan = plan_for(study, 3, 4)
    driver = racing(study, plan)
    on_fresh_seeds = {0: (0.30, 3.0), 1: (0.20, 2.0), 2: (0.25, 1.0)}  # candidate 2 dominates 1
    while (assignment := driver.controller.next_trial()) is not None:
        candidate, seed = point(driver, assignment.number)
        accuracy, loss = on_fresh_seeds[candidate]
        driver.report(
            assignment.number, 4, accuracy + 0.001 * (-1) ** (candidate + seed), loss + 0.01 * (seed % 2)
        )
    driver.close()
    found = concluded(study, plan, driver.study.trials(), {0: 9.0, 1: 1.0, 2: 1.0})
    assert (found.winner, found.tied) == (0, (0,))
    eliminated = {candidate.trial: candidate.eliminated_after for candidate in found.candidates}
    assert eliminated == {0: None, 1: 2, 2: None}
    assert found.candidates[0].metrics["val_loss"] == pytest.approx(3.005)
