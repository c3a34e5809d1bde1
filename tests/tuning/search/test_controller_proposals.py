"""Proposals of the controller: enqueued configurations first, then the sampler's, which the seed determines."""

import json
from pathlib import Path

import pytest

from tests.tuning.search.driving import Driver


def test_enqueued_configuration_runs_first(spec) -> None:
    assert Driver(spec).begin().spec.model["num_proxies"] == 4


def test_seed_determines_the_proposals_across_a_resume(make_spec) -> None:
    def params(storage: str, kill_after: int | None) -> list[dict]:
        seen, driver = [], Driver(make_spec("search.trials=14", f"storage={storage}"))
        while not driver.controller.finished:
            assignment = driver.begin()
            accuracy = 0.5 - abs(assignment.spec.model["dropout"] - 0.2)
            driver.report(assignment.number, 30, accuracy, outcome="complete")
            if assignment.number == kill_after:
                driver.crash()
                driver = Driver(make_spec("search.trials=14", f"storage={storage}"))
        seen = [dict(trial.params) for trial in driver.study.trials()]
        return seen

    root = Path(make_spec().storage)
    uninterrupted = params(json.dumps(str(root / "a")), None)
    assert params(json.dumps(str(root / "b")), 11) == uninterrupted
    assert len({json.dumps(proposal) for proposal in uninterrupted}) == 14


@pytest.mark.parametrize("sampler", ["random", "grid", "qmc", "tpe", "gp", "cmaes", "nsga2", "curve"])
def test_every_sampler_is_reproducible_across_a_resume_and_stays_in_the_space(
    make_spec, sampler: str
) -> None:
    space = "{model.num_proxies: {choice: [2, 4, 8]}, model.dropout: {choice: [0.0, 0.1, 0.2, 0.3]}}"
    if sampler in ("gp", "cmaes"):
        space = "{model.num_proxies: {low: 2, high: 8}, model.dropout: {low: 0.0, high: 0.3}}"

    trials = 6 if sampler in ("random", "qmc", "nsga2") else 12  # the others fit a model to completed trials

    def params(storage: str, resume_at: int) -> list[dict]:
        spec = make_spec(
            f"search.space={space}", f"search.sampler.name={sampler}", f"search.trials={trials}", "search.enqueue=[]",
            f"storage={json.dumps(str(make_spec().storage / storage))}",
        )  # fmt: skip
        driver = Driver(spec)
        for number in range(trials):
            if number == resume_at:
                driver.crash()
                driver = Driver(spec)
            assignment = driver.begin()
            driver.report(
                assignment.number, 30, 0.5 - abs(assignment.spec.model["dropout"] - 0.2), outcome="complete"
            )
        return [dict(trial.params) for trial in driver.study.trials()]

    uninterrupted = params("a", -1)
    assert params("b", trials - 2) == uninterrupted
    assert all(proposal["model.num_proxies"] in range(2, 9) for proposal in uninterrupted)
    if sampler == "grid":
        assert len({json.dumps(proposal) for proposal in uninterrupted}) == 12
