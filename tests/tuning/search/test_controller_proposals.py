"""Which trials the controller hands out: enqueued ones first, then the same ones from the same seed."""

import json
from pathlib import Path

import pytest

from tests.tuning.search.driving import Driver


def test_the_enqueued_setting_goes_first(spec) -> None:
    assert Driver(spec).begin().spec.model["num_proxies"] == 4


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


@pytest.mark.parametrize("sampler", ["random", "grid", "qmc", "tpe", "gp", "cmaes", "nsga2", "curve"])
def test_every_sampler_proposes_within_the_space_and_the_same_after_a_resume(make_spec, sampler: str) -> None:
    space = "{model.num_proxies: {choice: [2, 4, 8]}, model.dropout: {choice: [0.0, 0.1, 0.2, 0.3]}}"
    if sampler in ("gp", "cmaes"):
        space = "{model.num_proxies: {low: 2, high: 8}, model.dropout: {low: 0.0, high: 0.3}}"

    trials = 6 if sampler in ("random", "qmc", "nsga2") else 12  # the others model what they have seen

    def params(storage: str, resume_at: int) -> list[dict]:
        spec = make_spec(
            f"search.space={space}", f"search.sampler.name={sampler}", f"search.trials={trials}", "search.enqueue=[]",
            f"storage={json.dumps(str(make_spec().storage / storage))}",
        )  # fmt: skip
        driver = Driver(spec)
        for number in range(trials):
            if number == resume_at:
                driver.die()
                driver = Driver(spec)
            assignment = driver.begin()
            driver.say(
                assignment.number, 30, 0.5 - abs(assignment.spec.model["dropout"] - 0.2), outcome="complete"
            )
        return [dict(trial.params) for trial in driver.study.trials()]

    unbroken = params("a", -1)
    assert params("b", trials - 2) == unbroken
    assert all(spec_value in range(2, 9) for one in unbroken if (spec_value := one["model.num_proxies"]))
    if sampler == "grid":
        assert len({json.dumps(one) for one in unbroken}) == 12
