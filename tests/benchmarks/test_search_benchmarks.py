"""The benchmarks of the search with few trials: results, figures and saved files."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxytune.tuning.journal.events import Event, Reported, TrialEnded, TrialStarted
from proxytune.tuning.spec.outcome import Outcome
from tests.benchmarks import cli, efficiency, overhead, scale


def bench(*arguments: object) -> None:
    CliRunner(catch_exceptions=False).invoke(cli.bench, list(map(str, arguments)))


def read_saved(folder: Path) -> dict[str, Any]:
    """The only saved result of the folder, which must also contain its PNG."""
    (path,) = folder.glob("*.json")
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    document: dict[str, Any] = json.loads(path.read_text())
    assert {"date", "command", "git_revision", "versions", "hardware", "headline"} <= document.keys()
    return document


def test_overhead_compares_an_ask_with_optunas() -> None:
    result = overhead.run(num_trials=12, repeats=2)
    assert all(len(values) == 2 and min(values) > 0 for values in result["samples"].values())
    asks = result["ask_milliseconds"]
    assert result["ratio_to_optuna"] == asks[overhead.OURS] / asks[overhead.OPTUNA]
    overhead.figure(result)


def test_scale_without_ray_measures_the_controller(tmp_path: Path) -> None:
    bench("scale", "--without-ray", "--trials", "8", "--out", tmp_path)
    document = read_saved(tmp_path)
    (study,) = document["result"]["studies"]
    assert study["trials"] == 8
    assert study["memory"][-1][0] == 8
    assert study["resume_seconds"] > 0
    assert "without Ray" in next(iter(document["headline"]))


def test_efficiency_divides_all_slot_seconds_into_parts() -> None:
    def event(kind: str, second: float, trial: int, **rest: Any) -> Event:
        kinds = {
            "trial": lambda **values: TrialStarted(params={}, **values),
            "report": lambda **values: Reported(step=1, **values),
            "end": lambda **values: TrialEnded(step=1, outcome=Outcome.COMPLETE, **values),
        }
        return kinds[kind](time_ms=int(second * 1000), trial=trial, **rest)

    events = [
        event("trial", 0, 0),
        event("trial", 0, 1),
        event("report", 4, 0, pid=1, metrics={"seconds": 3.0}),
        event("end", 10, 0),
        event("report", 8, 0, pid=1, metrics={"seconds": 7.0}),
        event("report", 9, 1, pid=2, metrics={"seconds": 8.0}),
        event("end", 20, 1),
    ]
    result = efficiency.account(events, 2)
    assert result["slot_seconds"] == 40
    assert result["seconds"] == {
        "training and evaluation": 15.0,
        "start of workers": 2.0,
        "start of trials": 0.0,
        "idle while the last trials run": 10.0,
        "checkpoints, Ray, asks": 13.0,
    }
    assert sum(result["shares"].values()) == pytest.approx(1.0)
    assert result["share_training"] == 15 / 40
    efficiency.figure(result)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["turnaround", "scale", "efficiency", "data", "overhead"])
def test_quick_benchmark_saves_its_result(tmp_path: Path, name: str) -> None:
    bench(name, "--quick", "--out", tmp_path)
    assert read_saved(tmp_path)["benchmark"] == name


def test_driver_memory_is_read_in_kib() -> None:
    assert scale.driver_kib() > 10_000
