"""The live view: what is left, at 100 columns, and in a log."""

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from proxytune.tuning.plan.time_left import TimeLeft, duration
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.run.progress import Watch
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import END

SHIPPER: Any = SimpleNamespace(error=None, waiting=0)


def simulated(spec: StudySpec) -> list[tuple[float, float | None]]:
    """(seconds so far, estimate) while two workers train 20 steps a second each; one of three goes on at each rung."""
    now, ended, number = 0.0, [], 0
    live: dict[int, int] = {}
    time_left = TimeLeft(spec, clock=lambda: now)
    seen = []
    while len(ended) < spec.search.trials:
        while len(live) < 2 and number < spec.search.trials:
            live[number], number = 0, number + 1
        seen.append((now, time_left.seconds(ended, list(live.values()), spec.search.trials)))
        now += 1.0
        for trial in list(live):
            live[trial] += 20
            rung = spec.rung_steps().index(live[trial]) if live[trial] in spec.rung_steps() else None
            if live[trial] >= spec.training["steps"] or (rung is not None and (trial // 3**rung) % 3):
                ended.append(live.pop(trial))
    return [(now - when, left) for when, left in seen]


@pytest.mark.parametrize("stopping", ["none", "{name: asha, min_steps: 100}"])
def test_time_left_falls_and_is_about_right(make_spec: Callable[..., StudySpec], stopping: str) -> None:
    spec = make_spec("training.steps=900", "search.trials=27", f"search.stopping={stopping}")
    known = [(truth, left) for truth, left in simulated(spec) if left is not None]
    assert len(known) > 30
    for truth, left in known:
        assert left == pytest.approx(truth, rel=0.5, abs=30)
    shown = [left for _, left in known]
    assert shown == sorted(shown, reverse=True)


def test_time_left_leaves_out_the_start_and_what_an_earlier_driver_did(
    make_spec: Callable[..., StudySpec],
) -> None:
    now = 0.0
    time_left = TimeLeft(make_spec("search.stopping=none", "training.steps=100"), clock=lambda: now)
    assert time_left.seconds([100, 100], [40], 4) is None
    now = 1000.0  # Ray starts
    assert time_left.seconds([100, 100], [40], 4) is None
    now = 1200.0  # the first step took long, and a checkpoint may bring many steps at once
    assert time_left.seconds([100, 100], [50], 4) is None
    now = 1210.0
    assert time_left.seconds([100, 100], [60], 4) == pytest.approx(140)  # 1 step a second, 140 of them


def test_durations_are_for_people() -> None:
    assert [duration(seconds) for seconds in (7, 75, 3720)] == ["7 s", "1 min 15 s", "1 h 2 min"]


@pytest.fixture
def running(make_spec: Callable[..., StudySpec]) -> Any:
    """A study with an ended trial and one that trains."""
    study = begin_study(make_spec())
    ended, live = study.optuna.ask(), study.optuna.ask()
    ended.suggest_categorical("model.num_proxies", [2, 4, 8])
    ended.set_user_attr(END, {"outcome": "complete", "reason": "", "step": 30, "metrics": {}})
    study.optuna.tell(ended, 0.5)
    trial = SimpleNamespace(step=10, metrics={"val_accuracy": 0.25}, params={"model.num_proxies": 8})
    controller = SimpleNamespace(live={live.number: trial}, stopping=None, paused_by=None, notes=["n" * 150])
    return study, controller


def shown(study: Any, controller: Any, width: int = 100) -> str:
    """What is on a terminal, drawn by a console that does not wrap lines by itself."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, soft_wrap=True, color_system=None)
    console.print(Watch(console, study, controller, SHIPPER).view())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_nothing_is_cut_at_100_columns(running: Any) -> None:
    study, controller = running
    text = shown(study, controller)
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    assert "1 of 4 trials ended" in words
    assert "best val_accuracy 0.5 (trial 0)" in words
    assert "10/30" in words
    assert "num_proxies=8" in words
    assert text.count("n") > 150
    bars = [line for line in text.splitlines() if "━" in line]
    assert len(bars) == 2  # a bar of the study, on a line of its own, and one of the trial
    assert set(bars[0].strip()) <= set("━╸╺ ")


def test_what_waits_is_said(running: Any) -> None:
    study, controller = running
    assert "waiting for the first step" not in shown(study, controller, 200)
    for trial in controller.live.values():
        trial.step = 0
    assert "waiting for the first step" in shown(study, controller, 200)
    controller.paused_by = "me@here"
    assert "paused by me@here; `proxytune resume small` resumes it" in shown(study, controller, 200)
    controller.stopping = "SIGTERM"
    assert "stopping (SIGTERM)" in shown(study, controller, 200)


def test_a_log_gets_a_line_only_when_something_changed(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxytune.tuning.run.progress.REFRESH_SECONDS", 0.01)
    monkeypatch.setattr("proxytune.tuning.run.progress.PLAIN_SECONDS", 0.02)
    study, controller = running
    console = Console(file=io.StringIO(), width=200)
    watch = Watch(console, study, controller, SHIPPER)
    looks = iter(range(30))

    def wait(_: float) -> bool:
        look = next(looks)
        controller.live[1].metrics["val_accuracy"] = look / 30  # is not on the line
        if look == 15:
            controller.live[1].step = 20
        return look == 29

    watch._done = SimpleNamespace(wait=wait, set=lambda: None)  # type: ignore[assignment]
    watch._lines()
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert ["% of the steps" in line for line in lines] == [True, True]
    assert len(set(lines)) == 2
