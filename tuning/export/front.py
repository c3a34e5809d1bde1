"""The index of an exported Pareto front: a table as Markdown and as an HTML page with the report's plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxytune.tuning.export.choose import Selection
from proxytune.tuning.report.formatting import short
from proxytune.tuning.report.page import page
from proxytune.tuning.report.pareto import MAX_OBJECTIVES, front_figure
from proxytune.tuning.report.picture import Picture, dressed, label, number
from proxytune.tuning.report.table import shown, table
from proxytune.tuning.spec import ranking
from proxytune.tuning.spec.outcome import Outcome
from proxytune.tuning.store.records import TrialRecord

INDEX, PAGE = "index.md", "index.html"


def point_name(trial: int) -> str:
    """Folder name of a trial in an exported front."""
    return f"trial-{trial:04d}"


def write_index(
    folder: Path, study: str, records: Sequence[TrialRecord], selections: Sequence[Selection]
) -> None:
    """Write index.md and index.html into the parent of the trials' folders.

    Raises:
        OSError: the files cannot be written.
    """
    objectives = selections[0].objectives
    metrics = {selection.trial: records[selection.trial].metrics for selection in selections}
    points = [records[trial] for trial in ranking.ordered(metrics, objectives)]
    params = sorted({key for record in points for key in record.params})
    head = ["trial", *map(label, objectives), *(key.rpartition(".")[2] for key in params)]
    directions = ", ".join(f"{name} ({direction})" for name, direction in objectives.items())
    reading = (
        f"{len(points)} of {len(records)} trials: complete, within the constraints, and not dominated in "
        f"{directions}. One seed each. Every folder is self-contained and has a card."
    )
    rows = [_row(record, list(objectives), params) for record in points]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [
        f"| [{point_name(record.trial)}]({point_name(record.trial)}/card.md) | {' | '.join(text for text, _ in row)} |"
        for record, row in zip(points, rows, strict=True)
    ]
    title = f"Pareto front of study {study}"
    (folder / INDEX).write_text(f"# {title}\n\n{reading}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    cells = [
        [point_name(record.trial), *(shown(value, text) for text, value in row)]
        for record, row in zip(points, rows, strict=True)
    ]
    picture = dressed(Picture("", "", _figure(records, list(metrics), list(objectives))))
    parts = [f"<p class=reading>{reading}</p><div class=wide>{table(head, cells, sortable=True)}</div>"]
    links = "".join(f"<li><a href='{row[0]}/card.md'>{row[0]}/card.md</a></li>" for row in cells)
    parts += [f"<div class=wide>{picture.html()}</div>", f"<h2>Cards</h2><ul>{links}</ul>"]
    (folder / PAGE).write_text(page(title, parts), encoding="utf-8")


def _row(record: TrialRecord, objectives: Sequence[str], params: Sequence[str]) -> list[tuple[str, Any]]:
    values = [(number(record.metrics[name]), record.metrics[name]) for name in objectives]
    return [*values, *((short(value), value) for value in (record.params.get(key, "") for key in params))]


def _figure(records: Sequence[TrialRecord], front: Sequence[int], objectives: Sequence[str]) -> Any:
    """The report's plot of the front, from the records."""
    complete = {
        record.trial: record
        for record in records
        if record.outcome == Outcome.COMPLETE and all(name in record.metrics for name in objectives)
    }
    groups = {
        "the front": list(front),
        "other complete trials": [n for n, record in complete.items() if record.eligible and n not in front],
        "break a constraint": [n for n, record in complete.items() if not record.eligible],
    }
    texts = {
        trial: "<br>".join(
            [
                f"<b>trial {trial}</b>",
                *(f"{label(name)} {number(record.metrics[name])}" for name in objectives),
                *(f"{key.rpartition('.')[2]} = {short(value)}" for key, value in record.params.items()),
            ]
        )
        for trial, record in complete.items()
    }
    metrics = {trial: record.metrics for trial, record in complete.items()}
    return front_figure(metrics, objectives[:MAX_OBJECTIVES], groups, texts)
