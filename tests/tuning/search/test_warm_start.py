"""Warm start: the best configurations of an earlier study run first, and its trials inform the sampler."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from proxytune.tuning.errors import InputError
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.run.look import check_study
from proxytune.tuning.search.curve_sampler import CurveSampler
from proxytune.tuning.search.warm_start import WarmStart, WarmStartSampler, read_warm_start
from proxytune.tuning.store.study import open_study
from proxytune.tuning.store.winner import leading
from proxytune.tuning.trial.update import TrialUpdate
from tests.tuning.search.driving import Driver

PEAK = 0.27  # the dropout with the best accuracy


def accuracy(assignment) -> float:
    return 0.5 - abs(assignment.spec.model["dropout"] - PEAK)


def run(driver, trials: int) -> list[dict]:
    for _ in range(trials):
        assignment = driver.begin()
        driver.report(assignment.number, 30, accuracy(assignment), outcome="complete")
    return [dict(trial.params) for trial in driver.study.trials()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which `old` keeps its study after the first use."""
    return tmp_path_factory.mktemp("built") / "old"


@pytest.fixture
def old(make_spec, built: Path):
    """An earlier study of 16 trials by the random sampler."""
    spec = make_spec("name=old", "search.trials=16", "search.sampler.name=random", "search.enqueue=[]")
    if not built.exists():
        driver = Driver(spec)
        run(driver, 16)
        driver.crash()
        driver.study.storage.engine.dispose()
        spec.folder.rename(built)
    shutil.copytree(built, spec.folder)
    return open_study(spec.name, spec.storage)


def new_spec(make_spec, *assignments: str, top: int = 3):
    return make_spec(
        "name=new", "search.enqueue=[]", f"search.warm_start={{study: old, top: {top}}}", "search.trials=30", *assignments
    )  # fmt: skip


def best(study, number: int) -> list[dict]:
    ranked = sorted(study.trials(), key=lambda trial: -trial.values[0])
    return [dict(trial.params) for trial in ranked[:number]]


def test_best_earlier_configurations_run_first_within_the_new_budget(make_spec, old) -> None:
    driver = Driver(new_spec(make_spec))
    assert leading(driver.study) == []
    assert driver.study.budget == 30
    assert run(driver, 5)[:3] == best(old, 3)
    assert [trial.number for trial in driver.study.trials()] == [0, 1, 2, 3, 4]
    assert [event.trial for event in driver.events("trial")] == [0, 1, 2, 3, 4]
    log = [event.text for event in driver.events("log")]
    assert log[0] == (
        "warm start from old: 3 of its configurations run first, 16 of its 16 trials inform the search"
    )
    assert log[1:] == ["enqueued trial 0", "enqueued trial 1", "enqueued trial 2"]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "curve"])
def test_sampler_uses_earlier_trials_from_the_first_proposal(make_spec, old, sampler: str) -> None:
    def distances(*assignments: str) -> float:
        driver = Driver(make_spec("search.enqueue=[]", f"search.sampler.name={sampler}", *assignments))
        started = [driver.begin() for _ in range(4)]
        return sum(abs(assignment.spec.model["dropout"] - PEAK) for assignment in started) / 4

    cold = distances("name=cold")
    warm = distances("name=warm", "search.warm_start={study: old, top: 0}")
    assert warm < cold / 2  # deterministic: the seeds are fixed


def test_proposals_are_reproducible_after_the_earlier_study_is_deleted(make_spec, old) -> None:
    def params(storage: str, kill_after: int) -> list[dict]:
        folder = old.folder.parent.parent / storage
        shutil.copytree(old.folder, folder / "old", ignore=shutil.ignore_patterns("writer.lock"))
        spec = new_spec(make_spec, f"storage={json.dumps(str(folder))}")
        driver = Driver(spec)
        run(driver, kill_after)
        driver.crash()
        shutil.rmtree(folder / "old")
        return run(Driver(spec), 12 - kill_after)

    assert params("one", 5) == params("two", 9)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("training.steps=60", "training.steps was 30, here 60"),
        ("task.train_examples=512", "task.train_examples was 256, here 512"),
        ("model.embedding_dim=32", "model.embedding_dim was 16, here 32"),
        ("search.sampler.name=cmaes", "sampler cmaes cannot use trials of another study"),
        ("search.objectives={train_sequences_per_second: maximize}", "lack an objective of this study"),
    ],
)
def test_best_configurations_run_first_even_if_values_are_not_comparable(
    make_spec, old, change: str, note: str
) -> None:
    earlier = read_warm_start(new_spec(make_spec, "search.stopping.min_steps=10", change))
    assert earlier is not None
    assert earlier.trials == []
    assert [trial["params"] for trial in earlier.first] == best(old, 3)
    assert note in earlier.notes[-1]


def test_seed_and_evaluation_interval_may_differ(make_spec, old) -> None:
    earlier = read_warm_start(
        new_spec(make_spec, "training.seed=5", "training.eval_every=5", "search.stopping.min_steps=5")
    )
    assert earlier is not None
    assert len(earlier.trials) == 16


def test_trials_outside_the_new_space_are_dropped_and_new_keys_are_filled(make_spec, old) -> None:
    space = "{model.dropout: {low: 0.0, high: 0.25}, model.num_proxies: {choice: [2, 4, 8]}, model.num_heads: {choice: [1, 2]}}"
    spec = new_spec(make_spec, f"search.space={space}", top=16)
    earlier = read_warm_start(spec)
    assert earlier is not None
    inside = [trial for trial in old.trials() if trial.params["model.dropout"] <= 0.25]
    assert 0 < len(inside) < 16
    assert len(earlier.trials) == len(earlier.first) == len(inside)
    assert all(trial["params"]["model.num_heads"] == 2 for trial in earlier.first)
    assert sum("is outside its domain" in note for note in earlier.notes) == 16 - len(inside) + 1
    assert run(Driver(spec), len(inside)) == [trial["params"] for trial in earlier.first]


def test_first_trials_follow_the_new_objectives_and_are_feasible(make_spec) -> None:
    driver = Driver(
        make_spec("name=old", "search.stopping.min_steps=10", 'search.constraints={val_loss: "<= 2"}')
    )
    for accuracy, loss, outcome in ((0.5, 1.5, "complete"), (0.1, 1.0, "complete"), (0.9, 3.0, "complete")):
        number = driver.begin().number
        metrics = {"val_accuracy": accuracy, "val_loss": loss}
        driver.controller.receive(number, TrialUpdate(step=30, metrics=metrics, outcome=outcome), {})
    assert driver.report(driver.begin().number, 10, 0.0)  # pruned
    driver.crash()
    by_accuracy = read_warm_start(new_spec(make_spec))
    assert by_accuracy is not None
    assert [first["trial"] for first in by_accuracy.first] == [0, 1]
    assert "trial 2 does not run first: it violates a constraint" in by_accuracy.notes
    assert [trial["state"] for trial in by_accuracy.trials] == ["COMPLETE"] * 3 + ["PRUNED"]
    by_loss = read_warm_start(new_spec(make_spec, "search.objectives={val_loss: minimize}"))
    assert by_loss is not None
    assert [first["trial"] for first in by_loss.first] == [1, 0]
    assert [trial["values"] for trial in by_loss.trials] == [[1.5], [1.0], [3.0]]
    two = new_spec(make_spec, "search.objectives={val_accuracy: maximize, val_loss: minimize}")
    assert {first["trial"] for first in read_warm_start(two).first} == {0, 1}  # type: ignore[union-attr]
    frozen = WarmStart.from_json(json.loads(json.dumps(by_accuracy.to_json()))).frozen_trials(
        new_spec(make_spec)
    )
    assert [trial.state for trial in frozen] == [TrialState.COMPLETE] * 3 + [TrialState.PRUNED]


def test_check_shows_the_warm_start_and_rejects_an_unknown_study(make_spec, old) -> None:
    assert check_study(new_spec(make_spec))[0].startswith("warm start from old: 3 of its")
    with pytest.raises(InputError, match=r"search\.warm_start\.study: no study odl in .*studies there: old"):
        check_study(make_spec("search.warm_start={study: odl}"))
    with pytest.raises(InputError, match="small is this study itself"):
        check_study(make_spec("search.warm_start={study: small}"))
    assert not make_spec().folder.exists()  # nothing was written


def test_started_study_keeps_its_warm_start(make_spec, old) -> None:
    spec = new_spec(make_spec)
    begin_study(spec)
    shutil.rmtree(old.folder)
    assert check_study(spec)[1].startswith("warm start from old: 3 of its")
    assert begin_study(spec).budget == 30
    with pytest.raises(InputError, match=r"search\.warm_start\.top was 3, now 5"):
        begin_study(new_spec(make_spec, top=5))


@pytest.mark.parametrize("sampler", [WarmStartSampler, CurveSampler])
def test_overridden_sampler_hooks_have_the_signatures_of_optuna(sampler: type[BaseSampler]) -> None:
    for name, hook in vars(sampler).items():
        if name.startswith("_") or name == "expected_gain" or not inspect.isfunction(hook):
            continue
        known = list(inspect.signature(getattr(BaseSampler, name)).parameters)
        own = list(inspect.signature(hook).parameters)
        assert known == own, f"this version of Optuna calls {name} with {known}: change {sampler.__module__}"


def test_curve_rule_decides_from_earlier_curves_from_the_first_trials(make_spec) -> None:
    """While a study has few trials, the rule without a warm start ranks them as asha does."""

    def reason(name: str, *assignments: str) -> str:
        driver = Driver(
            make_spec(
                f"name={name}",
                "search.enqueue=[]",
                "search.stopping={name: curve, min_steps: 10}",
                *assignments,
            )
        )
        good, bad = driver.begin(), driver.begin()
        driver.report(good.number, 10, 0.3)
        assert driver.report(bad.number, 10, 0.05), "it was not stopped"
        return driver.study.trials()[bad.number].user_attrs["end"]["reason"]

    driver = Driver(
        make_spec(
            "name=old",
            "search.trials=16",
            "search.sampler=random",
            "search.enqueue=[]",
            "search.stopping=none",
        )
    )
    for _ in range(16):
        assignment = driver.begin()
        driver.report(assignment.number, 10, accuracy(assignment) - 0.2)
        driver.report(assignment.number, 30, accuracy(assignment), outcome="complete")
    driver.crash()
    assert reason("cold") == "not among the best at step 10"
    warm = reason("warm", "search.warm_start={study: old, top: 0}")
    assert warm.startswith("its chance of becoming the best is"), warm
