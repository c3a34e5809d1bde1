"""`proxytune bench`: the measurements of the mechanisms and their files."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from proxytune.models.attention import MECHANISMS as REGISTRY
from proxytune.models.footprint import footprint
from proxytune.tuning.cli import cli
from proxytune.tuning.compare import mechanisms
from proxytune.tuning.errors import InputError
from tests.benchmarks import cli as benchmarks


def test_every_registered_mechanism_is_measured() -> None:
    compared = {mechanisms.model_config(name, 256).attention for name in mechanisms.MECHANISMS}
    assert compared == set(REGISTRY)


@pytest.mark.parametrize(
    "names",
    [
        (mechanisms.ANCHOR, "proxyformer", "bigbird"),
        pytest.param(tuple(mechanisms.MECHANISMS), marks=pytest.mark.slow),
    ],
    ids=["three", "all"],
)
def test_quick_run_saves_a_table_and_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    monkeypatch.setattr(mechanisms, "run", functools.partial(mechanisms.run, mechanisms=names))
    full_size = mechanisms.model_config
    monkeypatch.setattr(
        mechanisms, "model_config", lambda name, length: replace(full_size(name, length), num_layers=1)
    )
    predicted = functools.cache(footprint)  # takes a second per mechanism
    monkeypatch.setattr(mechanisms, "footprint", predicted)
    monkeypatch.setattr(mechanisms, "TOKENS_PER_STEP", 8 * 256)  # a batch of two
    arguments = [
        "bench",
        "--lengths",
        "128",
        "--batch-size",
        "4",
        "--quick",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner(catch_exceptions=False).invoke(cli, arguments)
    assert "3.8x the throughput, 0.08x the memory" in " ".join(result.output.split())
    (saved,) = tmp_path.glob("models-*.json")
    document = json.loads(saved.read_text())
    assert document["date"].startswith(saved.stem.removeprefix("models-")[:10])
    assert document["hardware"]["cpus"] > 0
    assert document["versions"]["torch"] == torch.__version__
    assert "a training step of Proxyformer, n = 128" in document["headline"]
    rows = document["result"]
    assert [(row["length"], row["mechanism"]) for row in rows] == [(128, name) for name in names]
    for row in rows:
        anchor = next(
            other
            for other in rows
            if (other["length"], other["mechanism"]) == (row["length"], mechanisms.ANCHOR)
        )
        ratio = row["sequences_per_second"] / anchor["sequences_per_second"]
        assert row["throughput_ratio"] == pytest.approx(ratio)
        costs = predicted(mechanisms.model_config(row["mechanism"], row["length"]), 4, device="cpu")
        assert row["training_mib_per_sequence"] == pytest.approx(costs.training_mib_per_sequence)
        assert row["parameters"] == costs.parameters
        assert 0 < row["product_share"] < 1.5
    assert saved.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    table = CliRunner(catch_exceptions=False).invoke(benchmarks.bench, ["table", str(tmp_path)]).output
    assert "| models | a training step of Proxyformer, n = 128 |" in table


def test_ratios_are_none_without_the_anchor() -> None:
    (measurement,) = mechanisms.run((128,), ("linformer",), batch_size=2, quick=True)
    assert measurement.throughput_ratio is None
    assert measurement.memory_ratio is None
    assert measurement.sequences_per_second > 0


@pytest.mark.slow
def test_packed_run_measures_concurrent_trainings(tmp_path: Path) -> None:
    arguments = ["bench", "--packed", "1,2", "--lengths", "128", "--batch-size", "2", "--quick", "--json"]
    result = CliRunner(catch_exceptions=False).invoke(cli, [*arguments, "--out", str(tmp_path)])
    alone, two = json.loads(result.stdout)
    assert (alone["trials"], two["trials"]) == (1, 2)
    assert alone["sequences_per_second"] > 0
    assert two["throughput_ratio"] == pytest.approx(
        two["sequences_per_second"] / alone["sequences_per_second"]
    )
    assert len(list(tmp_path.glob("packed-*.png"))) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="requires a machine without a GPU")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--packed=0", "must be at least 1"),
        ("--packed=a", "expected integers"),
        ("--device=cuda", "torch finds no GPU"),
    ],
)
def test_invalid_options_are_rejected(option: str, message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["bench", option, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [("5x", "expected integers separated by commas"), ("64", "must not exceed max_length 64")],
)
def test_invalid_lengths_are_rejected_before_anything_runs(
    tmp_path: Path, lengths: str, message: str
) -> None:
    arguments = ["bench", "--lengths", lengths, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()
