"""HTML tables of a page, plain or sortable by a click on a column header."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 1.5em 1.25em 4em;
  color: #1f2937; background: #fff }
h1 { font-size: 1.6em; line-height: 1.2; margin: 0.5em 0; overflow-wrap: anywhere }
h2 { font-size: 1.2em; margin: 2.2em 0 0.4em; border-top: 1px solid #e5e7eb; padding-top: 1.2em }
table { border-collapse: collapse; margin: 0.6em 0 1.2em; font-size: 0.93em }
td, th { border-bottom: 1px solid #e5e7eb; padding: 0.3em 0.7em; text-align: left; vertical-align: top }
th { background: #f3f4f6; font-weight: 600; vertical-align: bottom }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
tr.winner td { background: #fff7ed; font-weight: 600 }
.wide { overflow-x: auto; max-width: 100% }
.tall { max-height: 32em; overflow: auto }
.tall th { position: sticky; top: 0 }
table.sortable td:last-child { min-width: 18em }
table.facts td { overflow-wrap: anywhere }
table.facts td:first-child { color: #4b5563; min-width: 19em; overflow-wrap: normal }
th button { all: unset; cursor: pointer; display: block }
th button:focus-visible { outline: 2px solid #0072b2 }
th[aria-sort=ascending] button::after { content: " \\25B2" }
th[aria-sort=descending] button::after { content: " \\25BC" }
p.reading { color: #4b5563; max-width: 62em; margin: 0.2em 0 0.8em }
p.winner { font-size: 1.1em }
@media (max-width: 640px) {
  body { padding: 1em 0.75em 3em; font-size: 14px }
  h1 { font-size: 1.3em }
  td, th { padding: 0.3em 0.45em }
  table.facts td:first-child { min-width: 9em }
}
"""
SORT_SCRIPT = """
document.querySelectorAll("table.sortable th button").forEach(button => button.addEventListener("click", () => {
  const head = button.parentElement, table = head.closest("table"), body = table.tBodies[0];
  const column = [...head.parentElement.children].indexOf(head);
  const falls = head.getAttribute("aria-sort") === "ascending";
  table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const order = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");  // empty cells stay last
    const sign = falls ? -1 : 1;
    return sign * (isNaN(x) || isNaN(y) ? String(x).localeCompare(y) : x - y);
  };
  [...body.rows].sort(order).forEach(row => body.append(row));
}));
"""

Cell = str | tuple[str, float]
"""A text, or a pair of displayed text and value."""


def facts_table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values without a header."""
    lines = (f"<tr><td>{_breakable(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in rows)
    return f"<div class=wide><table class=facts>{''.join(lines)}</table></div>"


def table(
    head: Sequence[str], rows: Sequence[Sequence[Cell]], *, sortable: bool = False, marked: int | None = None
) -> str:
    """A table with a header; `marked` is the index of a highlighted row."""
    names = (
        f"<button type=button>{_breakable(name)}</button>" if sortable else _breakable(name) for name in head
    )
    lines = [
        f"<tr{' class=winner' if position == marked else ''}>{''.join(map(_cell, row))}</tr>"
        for position, row in enumerate(rows)
    ]
    kind = " class=sortable" if sortable else ""
    return (
        f"<table{kind}><thead><tr>{''.join(f'<th scope=col>{name}</th>' for name in names)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _breakable(name: str) -> str:
    """A key with possible line breaks after dots and underscores."""
    return re.sub("([._])", r"\1<wbr>", html.escape(name))


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<td>{html.escape(cell)}</td>"
    text, value = cell
    return f'<td class=number data-value="{value!r}">{html.escape(text)}</td>'


def shown(value: Any, text: str | None = None) -> Cell:
    """The cell of a value: numbers sort by value, anything else by text; None is an empty cell."""
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(value) if text is None else text, value)
    return str(value)
