"""A study with a speed as objective, with real Ray and measurements: one measurement per distinct configuration."""

import json
from pathlib import Path

import pytest

from proxytune.tuning.journal.reading import read_events

STUDY = """
name: fast
task: {name: listops-mini, train_examples: 256}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16}
training: {steps: 20, warmup_steps: 2, batch_size: 8, learning_rate: 1e-3, eval_every: 10}
search:
  space:
    model.num_proxies: {choice: [4, 32]}
    model.contrastive_temperature: {low: 0.05, high: 1.0}
  objectives: {val_accuracy: maximize, train_sequences_per_second: maximize}
  constraints: {inference_sequences_per_second: ">= 0.001"}
  sampler: {name: random}
  stopping: {name: none}
  trials: 4
  enqueue: [{model.num_proxies: 4}, {model.num_proxies: 4}, {model.num_proxies: 32}]
"""
SPEEDS = ("train_sequences_per_second", "inference_sequences_per_second")


@pytest.mark.slow
@pytest.mark.e2e
def test_speed_is_measured_once_per_distinct_configuration(tmp_path: Path, run_cli) -> None:
    (tmp_path / "fast.yaml").write_text(STUDY)
    front = run_cli("run", "fast.yaml")["best"]
    folder = tmp_path / "studies" / "fast"
    kept = {path.name: path.read_bytes() for path in (folder / "efficiency").iterdir()}
    assert len(kept) == 2
    run_cli("run", "fast.yaml", "--set", "search.trials=5")
    assert {path.name: path.read_bytes() for path in (folder / "efficiency").iterdir()} == kept

    measured = {}
    for text in kept.values():
        values = json.loads(text)
        speeds = tuple(values["efficiency"][name] for name in SPEEDS)
        measured[values["costs"]["model"]["num_proxies"]] = speeds
    events = read_events(folder / "outbox").events
    proxies = {event.trial: event.params["model.num_proxies"] for event in events if event.kind == "trial"}
    reports = [event for event in events if event.kind == "report"]
    assert len(reports) == 2 * 5
    for event in reports:
        assert tuple(event.metrics[name] for name in SPEEDS) == measured[proxies[event.trial]]
    for winner in front:
        assert winner["values"][SPEEDS[0]] == measured[winner["params"]["model.num_proxies"]][0]
