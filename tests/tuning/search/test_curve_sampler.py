"""The curve sampler. test_controller_proposals.py tests that its proposals are in the space and reproducible after a resume."""

import json
import shutil
import subprocess
import sys

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from proxytune.tuning.errors import InputError
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.curve_sampler import expected_improvement
from proxytune.tuning.search.samplers import make_sampler
from proxytune.tuning.store.attributes import END

STEPS = (10, 20, 30)


def value(dropout: float, proxies: int, step: int) -> float:
    """A learning curve that ranks configurations equally at every step; the best have dropout 0.21 and 8 or more proxies."""
    return 0.9 - 8 * (dropout - 0.21) ** 2 - 0.05 * (proxies < 8) - 1 / step


def search(
    spec,
    num_trials: int,
    constraint=lambda params: None,
    diverges=lambda params: False,
    seconds=lambda params: 1.0,
) -> optuna.Study:
    """Run trials, of which two in three are stopped at their first report."""
    study = begin_study(spec).optuna
    for number in range(num_trials):
        study.sampler = make_sampler(spec, number)
        trial = study.ask()
        params = spec.space.suggest(trial, {})
        if (excess := constraint(params)) is not None:
            trial.set_constraint("memory", excess)
        steps = STEPS if number % 3 == 0 else STEPS[:1]
        values = [value(params["model.dropout"], params["model.num_proxies"], step) for step in steps]
        for step, reached in zip(steps, values, strict=True):
            trial.report(reached, step)
        outcome = "diverged" if diverges(params) else "complete" if len(steps) == len(STEPS) else "pruned"
        spent = seconds(params) * steps[-1]
        trial.set_user_attr(
            END, {"outcome": outcome, "reason": "", "step": steps[-1], "metrics": {"seconds": spent}}
        )
        state = {"diverged": TrialState.FAIL, "pruned": TrialState.PRUNED}.get(outcome)
        study.tell(trial, values[-1] if state is None else None, state)
    return study


def regrets(study: optuna.Study) -> list[float]:
    return [
        value(0.21, 8, 30) - value(trial.params["model.dropout"], trial.params["model.num_proxies"], 30)
        for trial in study.trials
    ]


def test_sampler_learns_from_stopped_trials(make_spec) -> None:
    found = search(make_spec("search.sampler.name=curve", "search.enqueue=[]"), 15)
    random = search(make_spec("name=other", "search.sampler.name=random", "search.enqueue=[]"), 15)
    assert np.median(regrets(found)[8:]) < 0.2 * np.median(regrets(random)[8:])
    assert min(regrets(found)) < 0.003


def test_proposal_is_the_same_in_another_process(make_spec, tmp_path) -> None:
    spec = make_spec("search.sampler.name=curve", "search.enqueue=[]")
    study = search(spec, 9)
    script = (
        "import json, sys, optuna\n"
        "from proxytune.tuning.spec.study_spec import parse_study\n"
        "from proxytune.tuning.run.begin import begin_study\n"
        "from proxytune.tuning.search.samplers import make_sampler\n"
        "spec = parse_study(json.load(sys.stdin), 'test')\n"
        "study = begin_study(spec).optuna\n"
        "study.sampler = make_sampler(spec, 9)\n"
        "print(json.dumps(spec.space.suggest(study.ask(), {})))\n"
    )
    copy = spec.model_dump(mode="json") | {"storage": str(shutil.copytree(spec.storage, tmp_path / "copy"))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], input=json.dumps(copy),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    study.sampler = make_sampler(spec, 9)
    assert json.loads(done.stdout.splitlines()[-1]) == spec.space.suggest(study.ask(), {})


def test_sampler_proposes_mostly_feasible_configurations(make_spec) -> None:
    """The optimum at 0.21 violates the constraint, whose bound is 0.15."""
    spec = make_spec("search.sampler.name=curve", "search.enqueue=[]")
    study = search(spec, 18, lambda params: params["model.dropout"] - 0.15)
    late = [trial.params["model.dropout"] for trial in study.trials[9:]]
    feasible = [dropout for dropout in late if dropout <= 0.15]
    assert len(feasible) >= 7
    assert max(feasible) > 0.14


def test_sampler_avoids_regions_where_training_diverges(make_spec) -> None:
    spec = make_spec("search.sampler.name=curve", "search.enqueue=[]")
    study = search(spec, 18, diverges=lambda params: params["model.dropout"] > 0.15)
    late = [trial.params["model.dropout"] for trial in study.trials[9:]]
    assert sum(dropout <= 0.15 for dropout in late) >= 7


def test_sampler_prefers_cheap_configurations_of_equal_value(make_spec) -> None:
    """The number of proxies changes the time but not the values."""
    space = "search.space={model.num_proxies: {low: 8, high: 64}, model.dropout: {low: 0.0, high: 0.3}}"

    def mean_proxies(name: str, power: float) -> float:
        spec = make_spec(f"name={name}", "search.sampler.name=curve", "search.enqueue=[]", space)
        study = search(spec, 15, seconds=lambda params: params["model.num_proxies"] ** power)
        return float(np.mean([trial.params["model.num_proxies"] for trial in study.trials[5:]]))

    assert mean_proxies("small-is-cheap", 2.0) < mean_proxies("large-is-cheap", -2.0) - 10


def test_several_objectives_are_rejected_in_one_line(make_spec) -> None:
    with pytest.raises(InputError) as caught:
        make_spec(
            "search.sampler.name=curve", "search.objectives={val_accuracy: maximize, val_loss: minimize}"
        )
    assert "curve supports one objective; use tpe or nsga2" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_expected_improvement_matches_sampling() -> None:
    normal = np.random.default_rng(0).normal(size=200_000)
    for mean, deviation, incumbent in ((0.0, 1.0, 0.5), (1.0, 0.2, 0.9), (-1.0, 0.5, 1.0)):
        sampled = np.maximum(0, mean + deviation * normal - incumbent).mean()
        found = expected_improvement(np.array([mean]), np.array([deviation]), incumbent)[0]
        assert found == pytest.approx(sampled, abs=3e-3)
