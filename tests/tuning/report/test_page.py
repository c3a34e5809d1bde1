"""The report: a self-contained page for studies of any size and in any state."""

import re
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.events import Confirmed, ConfirmedCandidate, Event, TestedWinner
from proxytune.tuning.report.history import History, read_history
from proxytune.tuning.report.page import pictures, report_page, write_report
from tests.benchmarks.synthetic import synthetic_events

Fill = Callable[[Iterable[Event]], None]
MULTI = {"val_accuracy": "maximize", "train_memory_mib_per_sequence": "minimize"}


def events(num_trials: int, objectives: dict[str, str] | None = None, seed: int = 1) -> Iterator[Event]:
    for event in synthetic_events(num_trials, seed=seed):
        if event.kind == "study" and objectives:
            event.spec["search"]["objectives"] = objectives
        yield event


def titles(history: History) -> list[str]:
    return [picture.title for picture in pictures(history)]


def test_report_contains_all_pictures(fill: Fill, outbox_folder: Path) -> None:
    fill(events(80))
    assert titles(read_history(outbox_folder)) == [
        "Optimisation history: val_accuracy (maximize)",
        "Learning curves: val_accuracy",
        "Parameter importances: val_accuracy",
        "Slices: val_accuracy",
        "Contour: val_accuracy",
        "Parallel coordinates: val_accuracy",
        "Pareto front: val_accuracy against train_memory_mib_per_sequence",
        "Proxy cosine against contrastive temperature",
        "Timeline of trials on workers",
    ]


def test_every_objective_has_its_pictures(fill: Fill, outbox_folder: Path) -> None:
    fill(events(40, MULTI))
    found = titles(read_history(outbox_folder))
    assert "Optimisation history: train_memory_mib_per_sequence (minimize)" in found
    assert "Pareto front: val_accuracy against train_memory_mib_per_sequence" in found
    assert "Learning curves: train_memory_mib_per_sequence" not in found, "it is known before any training"


def test_pareto_front_is_correct_and_drawn_in_its_own_color(fill: Fill, outbox_folder: Path) -> None:
    fill(events(40, MULTI))
    drawn = {picture.title: picture.figure for picture in pictures(read_history(outbox_folder))}
    figure = drawn["Pareto front: val_accuracy against train_memory_mib_per_sequence"]
    points = {trace.name: set(zip(trace.x, trace.y, strict=True)) for trace in figure.data}
    (front,) = figure.select_traces({"name": "the front"})
    last = {str(trial.number): trial.last for trial in read_history(outbox_folder).trials.values()}
    for number, *point in zip(front.text, front.x, front.y, strict=True):
        assert point == [last[number][name] for name in reversed(MULTI)], (
            "the first objective is on the vertical axis"
        )
    assert points.keys() == {"the front", "other complete trials"}
    assert points["the front"]
    for memory, accuracy in points["the front"]:
        rivals = points["the front"] | points["other complete trials"]
        assert not any(a >= accuracy and m <= memory and (a, m) != (accuracy, memory) for m, a in rivals)
    assert len({trace.marker.color for trace in figure.data}) == 2


def test_best_so_far_follows_the_direction_of_the_objective(fill: Fill, outbox_folder: Path) -> None:
    fill(events(40, MULTI))
    history = read_history(outbox_folder)
    drawn = {picture.title: picture.figure for picture in pictures(history)}
    for name, direction in MULTI.items():
        values = [trial.last[name] for trial in history.trials.values() if trial.outcome == "complete"]
        best = max(values) if direction == "maximize" else min(values)
        (line,) = drawn[f"Optimisation history: {name} ({direction})"].select_traces({"mode": "lines"})
        assert (line.y[-1], line.line.shape) == (best, "hv"), "drawn as a step function"


def test_trial_that_violates_a_constraint_is_not_the_winner(fill: Fill, outbox_folder: Path) -> None:
    """The best trial without the constraint needs more than 30 MiB."""

    def constrained(rule: str) -> Iterator[Event]:
        for event in events(60, seed=3):
            if event.kind == "study":
                event.spec["search"]["constraints"] = {"train_memory_mib_per_sequence": rule}
            yield event

    fill(constrained("<= 30"))
    history = read_history(outbox_folder)
    complete = [trial for trial in history.trials.values() if trial.outcome == "complete"]
    feasible = [trial for trial in complete if trial.last["train_memory_mib_per_sequence"] <= 30]
    best = max(feasible, key=lambda trial: trial.last["val_accuracy"])
    assert max(trial.last["val_accuracy"] for trial in complete) > best.last["val_accuracy"]
    assert history.counters.best_trial == {"val_accuracy": best.number}
    page = report_page(history)
    assert f"Trial {best.number}, by best search value." in page
    table = page.partition("<h2>Trials</h2>")[2].partition("</table>")[0].replace("<wbr>", "")
    assert f'<tr class=winner><td class=number data-value="{best.number}">' in table
    assert table.count("<tr") == 1 + len(history.trials)
    drawn = {picture.title: picture.figure for picture in pictures(history)}
    (line,) = drawn["Optimisation history: val_accuracy (maximize)"].select_traces({"name": "best so far"})
    assert line.y[-1] == best.last["val_accuracy"]
    front = drawn["Pareto front: val_accuracy against train_memory_mib_per_sequence"]
    assert {trace.name for trace in front.data} == {
        "the front",
        "other complete trials",
        "break a constraint",
    }


def test_every_axis_has_a_title(fill: Fill, outbox_folder: Path) -> None:
    fill(events(80))
    for picture in pictures(read_history(outbox_folder)):
        if "Timeline" in picture.title or "importances" in picture.title:
            continue  # their vertical axes list names
        if "Parallel" in picture.title:
            (lines,) = picture.figure.data
            names = [dimension.label for dimension in lines.dimensions]
            assert names[-2:] == ["steps trained", "val_accuracy"]
            assert "contrastive_temperature" in names
            continue
        assert picture.figure.layout.xaxis.title.text, picture.title
        assert picture.figure.layout.yaxis.title.text, picture.title


def test_pruned_trials_are_in_history_slices_and_parallel_coordinates(
    fill: Fill, outbox_folder: Path
) -> None:
    fill(events(80))
    history = read_history(outbox_folder)
    pruned = [trial for trial in history.trials.values() if trial.outcome == "pruned"]
    assert pruned
    drawn = {picture.title.partition(":")[0]: picture.figure for picture in pictures(history)}
    (points,) = drawn["Optimisation history"].select_traces({"name": "pruned"})
    assert sorted(points.x) == [trial.number for trial in pruned]
    assert points.marker.symbol == "circle-open"
    assert f"trial {points.x[0]}</b>: pruned at step" in points.text[0]
    assert len([*drawn["Slices"].select_traces({"name": "pruned"})]) == len(history.domains)
    (lines,) = drawn["Parallel coordinates"].data
    assert len(lines.dimensions[0]["values"]) == len(history.with_metric("val_accuracy"))


def test_table_lists_every_trial_with_memory_speed_and_parameters(fill: Fill, outbox_folder: Path) -> None:
    fill(events(12))
    page = report_page(read_history(outbox_folder))
    table = page.partition("<h2>Trials</h2>")[2].partition("</table>")[0].replace("<wbr>", "")
    heads = re.findall(r"<button type=button>([^<]*)</button>", table)
    assert heads == [
        "trial",
        "outcome",
        "step",
        "val_accuracy",
        "memory (MiB per sequence)",
        "speed (tokens/s)",
        "num_proxies",
        "contrastive_temperature",
        "dropout",
        "reason",
    ]
    assert sorted(map(int, re.findall(r'<tr[^>]*><td class=number data-value="(\d+)"', table))) == [
        *range(12)
    ]


def test_page_explains_missing_importances_of_too_few_trials(fill: Fill, outbox_folder: Path) -> None:
    fill(events(5))
    page = report_page(read_history(outbox_folder))
    assert "complete trials; at least 10 are needed" in page


@pytest.mark.parametrize(
    ("stopping", "noted"),
    [({"name": "asha", "min_steps": 250, "reduction_factor": 3}, True), ({"name": "none"}, False)],
    ids=["asha", "none"],
)
def test_page_notes_asynchronous_stopping_if_trials_can_be_pruned(
    fill: Fill, outbox_folder: Path, stopping: dict[str, object], noted: bool
) -> None:
    def with_stopping() -> Iterator[Event]:
        for event in events(5):
            if event.kind == "study":
                event.spec["search"]["stopping"] = stopping
            yield event

    fill(with_stopping())
    page = report_page(read_history(outbox_folder))
    assert ("depends on the timing of the workers" in page) == noted


def test_confirmation_changes_the_winner_and_is_shown(fill: Fill, outbox_folder: Path) -> None:
    fill(events(40))
    before = read_history(outbox_folder)
    complete = sorted(before.eligible())
    other = next(number for number in complete if number != before.winner["trial"])
    candidate = ConfirmedCandidate(trial=other, seeds={1: 0.31, 2: 0.33}, mean=0.32, low=0.2, high=0.4)
    test = TestedWinner(mean=0.3, num_models=2, num_examples=2000, openings=1)
    rule = "confirmed mean over 2 fresh seeds"
    event = Confirmed(objective="val_accuracy", candidates=(candidate,), winner=other, rule=rule, test=test)
    fill([event])
    history = read_history(outbox_folder)
    assert history.winner == {"trial": other, "rule": rule}
    page = report_page(history)
    assert f"Trial {other}, by {rule}." in page
    assert "0.2000 to 0.4000" in page
    assert "Test accuracy of the winner: 0.3000, 2 models on 2,000 examples" in page
    drawn = {picture.title: picture.figure for picture in pictures(history)}
    assert [*drawn["Learning curves: val_accuracy"].select_traces({"name": f"winner: trial {other}"})]


THREE = MULTI | {"tokens_per_second": "maximize"}


@pytest.mark.parametrize(
    ("num_trials", "objectives"),
    [
        *((1, objectives) for objectives in (None, MULTI, THREE)),
        *((2, objectives) for objectives in (None, MULTI, THREE)),
        (5, None),
        (200, THREE),
    ],
)
def test_page_is_written_for_any_number_of_trials_and_objectives(
    fill: Fill, outbox_folder: Path, num_trials: int, objectives: dict[str, str] | None
) -> None:
    fill(events(num_trials, objectives))
    page = report_page(read_history(outbox_folder))
    assert f"{num_trials} of {num_trials}" in page
    assert "finished, 2023-11-14 22:13 UTC to" in page


def test_page_is_written_before_any_trial_is_complete(fill: Fill, outbox_folder: Path) -> None:
    fill(list(events(8))[:2])
    assert "No trial has reached the full budget yet" in report_page(read_history(outbox_folder))


def test_page_is_written_if_metrics_are_not_finite(fill: Fill, outbox_folder: Path) -> None:
    def broken() -> Iterator[Event]:
        for event in events(12):
            if event.kind in ("report", "end") and event.trial % 2:
                event.metrics.update(val_accuracy=float("nan"), proxy_cosine=float("inf"))
            yield event

    fill(broken())
    assert "Learning curves" in report_page(read_history(outbox_folder))


def test_every_placement_has_its_time_and_worker(fill: Fill, outbox_folder: Path) -> None:
    fill(events(12))
    history = read_history(outbox_folder)
    assert sorted(history.trials) == list(range(12))
    for trial in history.trials.values():
        (placement,) = trial.placements
        assert placement.end_ms >= placement.start_ms
        assert re.fullmatch(r"127\.0\.0\.1 [0-3]", placement.worker)


class _Resources(HTMLParser):
    """The URLs that a browser would fetch for the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for key, value in attrs if key in ("src", "href") and value]


def test_page_fetches_nothing_and_escapes_hostile_text(
    fill: Fill, outbox_folder: Path, tmp_path: Path
) -> None:
    hostile = "</script><script>document.title='taken'</script>"

    def poisoned() -> Iterator[Event]:
        for event in events(6):
            if event.kind == "study":
                event.facts["note"] = hostile
            if event.kind in ("end", "report"):
                event = event.model_copy(update={{"end": "reason", "report": "node"}[event.kind]: hostile})
            yield event

    fill(poisoned())
    write_report(outbox_folder, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert hostile not in page
    assert "&lt;/script&gt;&lt;script&gt;" in page
    parser = _Resources()
    parser.feed(page)
    assert parser.found == []


def test_empty_outbox_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no events of a study"):
        read_history(tmp_path)
