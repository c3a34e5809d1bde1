"""A study's report: one self-contained HTML file with the winner, all trials, and the plots."""

import html
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from plotly.offline import get_plotlyjs

from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.events import Confirmed
from proxytune.tuning.report.curves import learning_curves, optimisation_history
from proxytune.tuning.report.formatting import flat, short
from proxytune.tuning.report.history import History, TrialHistory, read_history
from proxytune.tuning.report.parameters import contour, parallel_coordinates, parameter_importances, slices
from proxytune.tuning.report.pareto import pareto_front
from proxytune.tuning.report.picture import Picture, dressed, label, number
from proxytune.tuning.report.proxies import proxy_cosines
from proxytune.tuning.report.table import SORT_SCRIPT, STYLE, Cell, facts_table, shown, table
from proxytune.tuning.report.timeline import timeline
from proxytune.tuning.spec.metrics import MEMORY, METRICS
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.spec.ranking import sign
from proxytune.tuning.store.folder import write_file

SPEEDS = ("train_sequences_per_second", "tokens_per_second")
"""Candidates for the speed column in the table of trials; the first metric that any trial has is used."""


def write_report(outbox_folder: Path, path: Path) -> None:
    """Write the report of a study from its outbox. The file is replaced atomically.

    Raises:
        InputError: the outbox holds no study.
        OSError: the file cannot be written.
    """
    _write(path, report_page(read_history(outbox_folder)))


def write_pareto_front(outbox_folder: Path, path: Path) -> None:
    """Write only the Pareto front as an HTML file (for a single objective: over it and training memory).

    Raises:
        InputError: the outbox holds no study, or fewer than two trials are complete.
        OSError: the file cannot be written.
    """
    history = read_history(outbox_folder)
    picture = next(pareto_front(history), None)
    if picture is None:
        raise InputError(f"study {history.name} has fewer than two complete trials to plot; run it further")
    _write(path, page(f"{history.name}: {picture.title}", [_section(dressed(picture))]))


def _write(path: Path, text: str) -> None:
    write_file(path, text.encode())


def page(title: str, parts: Iterable[str]) -> str:
    """A self-contained page with plotly, the common style and sortable tables."""
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body><h1>{html.escape(title)}</h1>"
        f"{''.join(parts)}<script>{SORT_SCRIPT}</script></body></html>"
    )


def report_page(history: History) -> str:
    """The whole page."""
    parts = [_summary(history), _winner(history), _trials(history), *map(_section, pictures(history))]
    return page(f"Study {history.name}", [*parts, _how_it_was_run(history)])


def pictures(history: History) -> Iterator[Picture]:
    """Every plot for which the study has data."""
    for draw in (
        optimisation_history,
        learning_curves,
        parameter_importances,
        slices,
        contour,
        parallel_coordinates,
        pareto_front,
        proxy_cosines,
        timeline,
    ):
        for picture in draw(history):
            yield dressed(picture)


def _section(picture: Picture) -> str:
    return (
        f"<h2>{html.escape(picture.title)}</h2><p class=reading>{html.escape(picture.reading)}</p>"
        f"<div class=wide>{picture.html()}</div>"
    )


def _summary(history: History) -> str:
    counters = history.counters
    outcomes = dict.fromkeys((Outcome.COMPLETE, Outcome.PRUNED), 0)
    for trial in history.trials.values():
        outcomes[trial.outcome] = outcomes.get(trial.outcome, 0) + 1
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    objectives = (f"{direction} {label(name)}" for name, direction in history.objectives.items())
    rows = [
        ("objectives", ", ".join(objectives)),
        *((f"constraint on {label(metric)}", rule) for metric, rule in counters.constraints.items()),
        ("status", f"{history.status}, {_moment(history.start_ms)} to {_moment(history.last_ms)}"),
        *([("ended because", history.reason)] if history.reason else []),
        ("trials", f"{len(history.trials)} of {counters.budget or '?'}: {counts}"),
        ("steps trained", f"{counters.steps:,}"),
        (
            "time in trials",
            f"{counters.cpu_seconds / 3600:.2f} CPU-hours, {counters.gpu_seconds / 3600:.2f} GPU-hours",
        ),
    ]
    return facts_table(rows) + _timing(history)


def _timing(history: History) -> str:
    """A note on how asynchronous stopping affects the results of one run."""
    rule = (history.spec.get("search", {}).get("stopping") or {}).get("name", "none")
    if rule == "none":
        return ""
    return (
        f"<p class=reading>Stopping rule {html.escape(str(rule))} is asynchronous: it decides by what other trials have "
        "reported until then. Which trials are pruned depends on the timing of the workers, so another run of "
        "the same study may prune others and find another winner. A confirmation on fresh seeds does not depend on it."
        "</p>"
    )


def _moment(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _winner(history: History) -> str:
    found = history.winner
    if not found:
        rule = " within the constraints" if history.counters.constraints else ""
        return f"<p>No trial has reached the full budget{rule} yet.</p>"
    trial = history.trials.get(found["trial"])
    values = (
        ""
        if trial is None
        else ", ".join(f"{name} {number(trial.last[name])}" for name in history.objectives)
    )
    params = "" if trial is None else ", ".join(f"{_name(key)} {short(v)}" for key, v in trial.params.items())
    line = f"Trial {found['trial']}, by {found['rule']}. In the search: {values}. {params}."
    confirmed = "" if history.confirmation is None else _confirmation(history, history.confirmation)
    return f"<h2>Winner</h2><p class=winner>{html.escape(line)}</p>{confirmed}"


def _confirmation(history: History, event: Confirmed) -> str:
    """The candidates on fresh seeds, and the winner on the test split."""
    head = ("trial", "search", f"mean {event.objective}", "95 % interval", "seeds", "values")
    rows = []
    for one in event.candidates:
        searched = history.trials.get(one.trial)
        before = None if searched is None else searched.last.get(event.objective)
        has_interval = one.low is not None and one.high is not None
        rows.append(
            (
                shown(one.trial),
                "" if before is None else shown(before, number(before)),
                shown(one.mean, number(one.mean)),
                f"{one.low:.4f} to {one.high:.4f}" if has_interval else "",
                shown(len(one.seeds)),
                ", ".join(number(value) for value in one.seeds.values()),
            )
        )
    marked = next((i for i, one in enumerate(event.candidates) if one.trial == event.winner), None)
    text = "Candidates retrained from fresh seeds."
    if (test := event.test) is not None:
        interval = f" (95 % interval {test.low:.4f} to {test.high:.4f})" if test.low is not None else ""
        again = f", which this study opened {test.openings} times" if test.openings > 1 else ""
        text += (
            f" Test accuracy of the winner: {test.mean:.4f}{interval}, {test.num_models} models on {test.num_examples:,} "
            f"examples of the test split{again}."
        )
    return (
        f"<h2>Confirmation</h2><p class=reading>{html.escape(text)}</p><div class=wide>"
        f"{table(head, rows, marked=marked)}</div>"
    )


def _trials(history: History) -> str:
    """Every trial, sortable; the winner first, then the eligible ones by value, then the others by number."""
    if not history.trials:
        return ""
    trials = list(history.trials.values())
    speed = next((name for name in SPEEDS if any(name in trial.last for trial in trials)), None)
    metrics = dict.fromkeys([*history.objectives, MEMORY, *([speed] if speed else [])])
    params = list(dict.fromkeys(key for trial in trials for key in trial.params))
    head = ["trial", "outcome", "step", *map(_head, metrics), *map(_name, params), "reason"]
    objective, direction = next(iter(history.objectives.items()))
    factor, eligible = sign(direction), history.eligible()
    winner = history.winner.get("trial")
    trials.sort(
        key=lambda one: (
            one.number != winner,
            one.number not in eligible,
            factor * one.last[objective] if one.number in eligible else one.number,
        )
    )
    rows = [_trial_row(trial, list(metrics), params) for trial in trials]
    marked = 0 if trials[0].number == winner else None
    return (
        f"<h2>Trials</h2><p class=reading>All {len(trials)} trials with the metrics of their last report. Click a column "
        f"header to sort.</p><div class='wide tall' tabindex=0>{table(head, rows, sortable=True, marked=marked)}</div>"
    )


def _trial_row(trial: TrialHistory, metrics: list[str], params: list[str]) -> list[Cell]:
    values = [trial.last.get(name) for name in metrics]
    return [
        shown(trial.number),
        str(trial.outcome),
        shown(trial.step, f"{trial.step:,}"),
        *("" if value is None else shown(value, number(value)) for value in values),
        *(
            shown(trial.params[key], short(trial.params[key])) if key in trial.params else ""
            for key in params
        ),
        trial.reason,
    ]


def _head(metric: str) -> str:
    """A short column header for a metric."""
    names = {MEMORY: "memory (MiB per sequence)"} | {name: f"speed ({METRICS[name].unit})" for name in SPEEDS}
    return names.get(metric, label(metric))


def _name(key: str) -> str:
    return key.rpartition(".")[2]


def _how_it_was_run(history: History) -> str:
    facts, spec = (
        [(key, str(value)) for key, value in flat(tree, depth=3).items() if value not in (None, "")]
        for tree in (history.facts, history.spec)
    )
    return f"<h2>How it was run</h2>{facts_table(facts)}<h2>The study file, resolved</h2>{facts_table(spec)}"
