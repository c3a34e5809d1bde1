"""One Markdown table of the saved results of all benchmarks."""

import json
from pathlib import Path
from typing import Any


def newest_results(folder: Path) -> list[dict[str, Any]]:
    """The newest result of each benchmark in a folder, sorted by the benchmark's name."""
    newest = {}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        newest[document["benchmark"]] = document
    return [newest[name] for name in sorted(newest)]


def markdown_table(documents: list[dict[str, Any]]) -> str:
    """The headlines as a Markdown table, and a line with dates, machines and versions."""
    lines = ["| benchmark | what | figure |", "|---|---|---|"]
    for document in documents:
        for measurement, figure in document["headline"].items():
            lines.append(f"| {document['benchmark']} | {measurement} | {figure} |")
    dates = sorted({document["date"][:10] for document in documents})
    machines = sorted(
        {f"{document['hardware']['cpus']} cores, {document['hardware']['cpu']}" for document in documents}
    )
    torches = sorted({document["versions"]["torch"] for document in documents})
    measured = f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} on {' and '.join(machines)}"
    return "\n".join([*lines, "", f"{measured}, torch {', '.join(torches)}."])
