"""Saves benchmark results: a dated JSON and PNG per run, with the command, the machine and the versions."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxytune.tuning.run.provenance import driver_facts
from proxytune.tuning.trial.efficiency import processor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_result(folder: Path, name: str, headline: dict[str, str], result: Any, figure: "Figure") -> Path:
    """Write <name>-<UTC time>.json and .png into `folder`, which is created if needed; return the path of the JSON.

    `headline` holds the figures shown in the table of all benchmarks, as text with units.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    stem = f"{name}-{now:%Y-%m-%dT%H-%M-%S}"
    facts = driver_facts(None)
    hardware = facts["hardware"] | {"cpu": processor(), "load_average": os.getloadavg()[0]}
    del hardware["host"]
    document = {
        "benchmark": name,
        "date": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git_revision": facts["git_revision"],
        "versions": facts["versions"],
        "hardware": hardware,
        "headline": headline,
        "result": result,
    }
    figure.savefig(folder / f"{stem}.png", dpi=120)
    path = folder / f"{stem}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    partial.rename(path)
    return path
