"""The benchmarks of the search in their smallest form: that they measure what they say, and save it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.study_files import read_study
from tests.benchmarks import cli, efficiency, overhead, sampling, scale

CURVES = Path(__file__).with_name("listops_mini_curves.jsonl.xz")


@pytest.fixture(scope="module")
def curves() -> sampling.Curves:
    return sampling.Curves(CURVES, read_study(sampling.STUDY))


def bench(*arguments: object) -> None:
    CliRunner(catch_exceptions=False).invoke(cli.bench, list(map(str, arguments)))


def saved(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    document: dict[str, Any] = json.loads(path.read_text())
    assert {"date", "command", "git_revision", "versions", "hardware", "headline"} <= document.keys()
    return document


def test_the_nearest_configuration_of_a_recorded_one_is_itself(curves: sampling.Curves) -> None:
    for curve in curves.curves:
        assert curves.nearest(curve.params) is curve
        moved = dict(curve.params) | {"model.dropout": curve.params["model.dropout"] + 1e-6}
        assert curves.nearest(moved).params["model.num_proxies"] == curve.params["model.num_proxies"]


def test_the_table_is_of_whole_trainings(curves: sampling.Curves) -> None:
    assert all(curve.steps == (200, 400, 600, 800, 1000, 1200) for curve in curves.curves if curve.complete)
    assert all(sorted(curve.seconds) == list(curve.seconds) for curve in curves.curves)
    assert 0.1 < curves.worst < curves.best < 1


@pytest.mark.parametrize("name", sampling.METHODS)
def test_a_race_is_the_real_search_and_the_same_again(curves: sampling.Curves, name: str) -> None:
    budgets = [budget * curves.training_seconds for budget in (0.5, 1.25, 2.0)]
    races = []
    for _ in range(2):
        with sampling.make_method(name, 1, read_study(sampling.STUDY)) as method:
            races.append(sampling.race(method, curves, 4, budgets))
            if isinstance(method, sampling.Ours):  # what it hands out is what the study calls its best
                (best,) = method.study.best()
                assert races[-1]["trained"][-1] == curves.best - best.values[0]
                outcomes = {trial.state.name for trial in method.study.trials()}
                assert ("PRUNED" in outcomes) == (name == sampling.OURS)
    assert races[0] == races[1]
    for regrets in races[0].values():
        assert all(0 <= regret <= curves.best - curves.worst for regret in regrets)
    assert races[0]["trained"] == sorted(races[0]["trained"], reverse=True)


def test_two_seeds_of_the_race_are_saved_with_their_intervals(tmp_path: Path) -> None:
    bench("sampling", "--curves", CURVES, "--quick", "--out", tmp_path)
    result = saved(tmp_path)["result"]
    assert result["regret"].keys() == set(sampling.RULES)
    for methods in result["regret"].values():
        assert methods.keys() == set(sampling.METHODS)
        for points in methods.values():
            assert len(points) == len(result["budgets"])
            assert all(point["low"] <= point["mean"] <= point["high"] for point in points)


def test_without_curves_the_race_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recorded curves there"):
        sampling.run(tmp_path / "nothing.jsonl")


def test_an_ask_is_measured_beside_optunas_own() -> None:
    result = overhead.run(num_trials=20, repeats=3)
    assert all(len(values) == 3 and min(values) > 0 for values in result["samples"].values())
    asks = result["ask_milliseconds"]
    assert result["ratio_to_optuna"] == asks[overhead.OURS] / asks[overhead.OWN]
    overhead.figure(result)


def test_the_controller_alone_takes_many_trials_and_resumes(tmp_path: Path) -> None:
    bench("scale", "--without-ray", "--trials", "30", "--out", tmp_path)
    (study,) = saved(tmp_path)["result"]["studies"]
    assert study["trials"] == 30
    assert study["memory"][-1][0] == 30
    assert study["resume_seconds"] > 0
    assert "without Ray" in next(iter(saved(tmp_path)["headline"]))


def test_slot_seconds_are_accounted_for() -> None:
    def event(kind: str, second: float, trial: int, **rest: Any) -> dict[str, Any]:
        return {"kind": kind, "time_ms": int(second * 1000), "trial": trial, **rest}

    events = [
        event("trial", 0, 0),
        event("trial", 0, 1),
        event("report", 4, 0, metrics={"seconds": 3.0}),
        event("end", 10, 0),
        event("report", 8, 0, metrics={"seconds": 7.0}),
        event("report", 9, 1, metrics={"seconds": 8.0}),
        event("end", 20, 1),
    ]
    result = efficiency.account(events, 2)
    assert result["slot_seconds"] == 40
    assert result["seconds"] == {
        "training and evaluation": 15.0,
        "within a trial, not training": 15.0,
        "between trials": 10.0,
    }
    assert result["share_training"] == 15 / 40
    efficiency.figure(result)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["turnaround", "scale", "efficiency", "data", "overhead"])
def test_the_quick_form_runs(tmp_path: Path, name: str) -> None:
    bench(name, "--quick", "--out", tmp_path)
    assert saved(tmp_path)["benchmark"] == name


def test_the_memory_of_a_driver_is_read() -> None:
    assert scale.driver_kib() > 10_000
