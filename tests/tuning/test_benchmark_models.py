"""`proxytune bench models` measures what it says and saves it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from proxytune.models.attention import MECHANISMS as REGISTRY
from proxytune.models.footprint import footprint
from proxytune.tuning.benchmarks import models
from proxytune.tuning.cli import cli
from proxytune.tuning.errors import InputError


def test_every_mechanism_of_the_registry_is_compared() -> None:
    compared = {models.model_config(name, 256).attention for name in models.MECHANISMS}
    assert compared == set(REGISTRY)


def test_a_quick_run_saves_a_table_and_a_picture(tmp_path: Path) -> None:
    seen: list[str] = []
    names = ("softmax-explicit", "proxyformer")
    measurements = models.run(
        tmp_path / "bench",
        (128, 256),
        names,
        batch_size=4,
        quick=True,
        progress=lambda m: seen.append(m.mechanism),
    )
    assert seen == [*names, *names]
    with (tmp_path / "bench" / "models.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["mechanism"], row["length"]) for row in rows] == [
        (m.mechanism, str(m.length)) for m in measurements
    ]
    for row in rows:
        anchor = next(other for other in rows if other["length"] == row["length"])
        speeds = float(row["sequences_per_second"]) / float(anchor["sequences_per_second"])
        assert float(row["throughput_ratio"]) == pytest.approx(speeds)
        costs = footprint(models.model_config(row["mechanism"], int(row["length"])), 4)
        assert float(row["training_mib_per_sequence"]) == pytest.approx(costs.training_mib_per_sequence)
        assert int(row["parameters"]) == costs.parameters
    assert (tmp_path / "bench" / "models.png").read_bytes().startswith(b"\x89PNG")
    console = Console(width=160, record=True)
    console.print(models.table(measurements))
    assert "3.8x the throughput, 0.08x the memory" in " ".join(console.export_text().split())


def test_without_the_anchor_there_are_no_ratios(tmp_path: Path) -> None:
    (measurement,) = models.run(tmp_path, (128,), ("linformer",), batch_size=2, quick=True)
    assert measurement.throughput_ratio is None
    assert measurement.memory_ratio is None
    assert measurement.sequences_per_second > 0


@pytest.mark.parametrize(
    ("lengths", "message"), [("5x", "give integers with commas"), ("64", "must not exceed max_length 64")]
)
def test_lengths_that_cannot_be_are_refused_before_anything_runs(
    tmp_path: Path, lengths: str, message: str
) -> None:
    arguments = ["bench", "models", "--lengths", lengths, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()
