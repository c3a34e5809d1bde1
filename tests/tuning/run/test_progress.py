"""Progress of a running study: the estimated time left, the view at 100 columns, and the lines of a log."""

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from proxytune.tuning.errors import StorageError
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.plan.costs import Cost, Costs, Point
from proxytune.tuning.plan.curves import Draw, DrawnCurve
from proxytune.tuning.plan.plan import PlannedStudy
from proxytune.tuning.plan.time_left import TimeLeft, duration
from proxytune.tuning.plan.workers import Workers
from proxytune.tuning.run.begin import begin_study, hold_study
from proxytune.tuning.run.progress import Watch
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.summary import summary
from proxytune.tuning.store.table_study import read_study
from tests.commandline import proxytune

SHIPPER: Any = SimpleNamespace(error=None, waiting=0)


TRAINING = 2 + 900 * 0.05 + 9 * 1  # seconds of a full training in `simulate`


def simulate(spec: StudySpec, seed: int) -> Iterator[tuple[float, float | None, bool]]:
    """(seconds left, estimated seconds left, whether all trials have started) per second of a study in virtual time."""
    cost = Cost(0.05, 1.0, 2.0, *[1.0] * 4)
    costs, draw = Costs([Point({})], [cost]), Draw(spec, seed)
    study = PlannedStudy(spec, costs)
    began: dict[int, float] = {}

    def curve(params: Mapping[str, Any]) -> DrawnCurve:
        began[len(began)] = study.now
        return draw.curve(params, spec.trial(params).training, cost)

    workers = Workers(study, curve, 2)
    clock, seen = 0.0, []
    time_left = TimeLeft(spec, clock=lambda: clock)
    while workers.next_time is not None:
        while clock < workers.next_time:
            live = {
                number: int(max(0.0, clock - began[number] - 2) / 0.054) for number in study.controller.live
            }
            ended = [step for number, step in study.reached.items() if number not in live]
            no_more = len(ended) + len(live) == spec.search.trials
            seen.append((clock, time_left.seconds(ended, list(live.values()), spec.search.trials), no_more))
            clock += 1.0
        workers.step()
    return ((study.now - when, left, no_more) for when, left, no_more in seen)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("stopping", "settled"),
    [
        ("none", 1 / 4),
        ("{name: asha, min_steps: 100}", 1 / 4),
        ("{name: median, min_steps: 200}", 1 / 4),
        ("{name: curve, min_steps: 100}", 2 / 3),  # the number of stopped trials depends on the curves
    ],
)
def test_time_left_decreases_and_is_within_a_factor_of_two(
    make_spec: Callable[..., StudySpec], stopping: str, settled: float, seed: int
) -> None:
    spec = make_spec(
        *("training.steps=900", "training.eval_every=100", "search.trials=27"),
        *("search.sampler=random", f"search.stopping={stopping}"),
    )
    known = [row for row in simulate(spec, seed) if row[1] is not None]
    assert len(known) > 100
    shown = [left for _, left, _ in known]
    rises = sum(max(0.0, after - before) for before, after in pairwise(shown))
    assert rises < 0.25 * shown[0]
    for truth, left, _ in known[int(len(known) * settled) :]:
        assert truth / 2 - TRAINING < left < 2 * truth + TRAINING


@pytest.mark.parametrize("seed", range(4))
def test_time_left_never_increases_while_the_last_trials_run(
    make_spec: Callable[..., StudySpec], seed: int
) -> None:
    spec = make_spec(
        *("training.steps=900", "training.eval_every=100", "search.trials=6"),
        *("search.sampler=random", "search.stopping={name: asha, min_steps: 100}"),
    )
    shown = [left for _, left, no_more in simulate(spec, seed) if no_more and left is not None]
    assert len(shown) > 5
    assert shown == sorted(shown, reverse=True)


def test_time_left_ignores_the_start_and_steps_of_an_earlier_driver(
    make_spec: Callable[..., StudySpec],
) -> None:
    now = 0.0
    time_left = TimeLeft(make_spec("search.stopping=none", "training.steps=100"), clock=lambda: now)
    assert time_left.seconds([100, 100], [40], 4) is None
    now = 1000.0  # Ray starts
    assert time_left.seconds([100, 100], [40], 4) is None
    now = 1200.0  # the first step is slow, and a checkpoint can add many steps at once
    assert time_left.seconds([100, 100], [50], 4) is None
    now = 1210.0
    assert time_left.seconds([100, 100], [60], 4) == pytest.approx(140)  # 140 steps at 1 step per second


def test_durations_are_human_readable() -> None:
    assert [duration(seconds) for seconds in (7, 75, 3720)] == ["7 s", "1 min 15 s", "1 h 2 min"]


@pytest.fixture
def running(make_spec: Callable[..., StudySpec]) -> Any:
    """A study with an ended trial and a training trial."""
    study = begin_study(make_spec())
    ended, live = study.optuna.ask(), study.optuna.ask()
    ended.suggest_categorical("model.num_proxies", [2, 4, 8])
    ended.set_user_attr(END, {"outcome": "complete", "reason": "", "step": 30, "metrics": {}})
    study.optuna.tell(ended, 0.5)
    trial = SimpleNamespace(step=10, metrics={"val_accuracy": 0.25}, params={"model.num_proxies": 8})
    steering = SimpleNamespace(stopping=None, paused_by=None, share=None)
    controller = SimpleNamespace(
        live={live.number: trial}, steering=steering, limits=SimpleNamespace(), notes=["n" * 150]
    )
    return study, controller


def shown(study: Any, controller: Any, width: int = 100) -> str:
    """The view on a terminal, rendered by a console that does not wrap lines by itself."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, soft_wrap=True, color_system=None)
    console.print(Watch(console, study, controller, SHIPPER).view())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_show_reports_the_time_left_estimated_by_the_driver(
    make_spec: Callable[..., StudySpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxytune.tuning.search.steering.POLL_SECONDS", 0.0)
    spec = make_spec()

    @contextmanager
    def driving() -> Iterator[StudyController]:
        with hold_study(spec) as held, closing(Outbox(spec.folder / "outbox")) as outbox:
            controller = StudyController(spec, held.study.optuna, held.study.storage, outbox)
            controller.reconcile()
            controller.poll()
            yield controller

    def left() -> float | None:
        seconds: float | None = summary(read_study(spec.name, spec.storage))["seconds_left"]
        return seconds

    with driving() as controller:
        assert left() is None
        controller.limits.seconds_left = 170.0
        controller.poll()
        assert left() == 170.0
        line = "about 2 min 50 s left"
        assert line in proxytune("show", spec.name, "--storage", spec.storage, cwd=spec.storage).stdout
    assert left() is None, "no driver runs the study"
    with driving():
        assert left() is None, "the next driver has no estimate yet"


def test_view_fits_100_columns_without_truncation(running: Any) -> None:
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
    assert len(bars) == 2  # the study's bar, alone on its line, and the trial's bar
    assert set(bars[0].strip()) <= set("━╸╺ ")


def test_failed_database_ends_the_display_without_a_traceback(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, controller = running

    def fails() -> None:
        raise StorageError("the database does not respond")

    raised = list[Any]()
    monkeypatch.setattr(threading, "excepthook", raised.append)
    watch = Watch(Console(file=io.StringIO()), study, controller, SHIPPER)
    monkeypatch.setattr(study, "trials", fails)
    with watch:
        pass
    assert raised == []


def test_view_reports_what_the_study_waits_for(running: Any) -> None:
    study, controller = running
    assert "waiting for the first step" not in shown(study, controller, 200)
    for trial in controller.live.values():
        trial.step = 0
    assert "waiting for the first step" in shown(study, controller, 200)
    controller.steering.share = SimpleNamespace(waits="0 of 2 usable slots at priority 0: waits for other")
    assert "0 of 2 usable slots at priority 0: waits for other" in shown(study, controller, 200)
    controller.steering.paused_by = "me@here"
    assert "paused by me@here; `proxytune resume small` resumes it" in shown(study, controller, 200)
    controller.steering.stopping = "SIGTERM"
    assert "stopping (SIGTERM)" in shown(study, controller, 200)


def test_log_gets_a_line_only_if_the_progress_has_changed(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxytune.tuning.run.progress.REFRESH_SECONDS", 0.01)
    monkeypatch.setattr("proxytune.tuning.run.progress.PLAIN_SECONDS", 0.02)
    study, controller = running
    console = Console(file=io.StringIO(), width=200)
    refreshed = threading.Semaphore(0)

    class Live(dict[int, Any]):
        def copy(self) -> dict[int, Any]:
            refreshed.release()
            return super().copy()

    controller.live = Live(controller.live)

    def refresh() -> list[str]:
        """The lines after the next three refreshes."""
        for _ in range(3):
            assert refreshed.acquire(timeout=300)
        return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]

    with Watch(console, study, controller, SHIPPER):
        before = refresh()
        controller.live[1].metrics["val_accuracy"] = 0.75  # not part of the line
        assert refresh() == before
        controller.live[1].step = 20
        after = refresh()
    progress = [[line for line in lines if "% of the steps" in line] for lines in (before, after)]
    assert [len(lines) for lines in progress] == [1, 2]
    assert len(set(after)) == len(after)
