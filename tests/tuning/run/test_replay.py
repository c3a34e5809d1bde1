"""Reproducibility: with one trial at a time and the same seed, a second process repeats the study exactly."""

from pathlib import Path
from typing import Any

import pytest

STUDY = """
name: replayed
task: {name: listops-mini, train_examples: 512}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16}
training: {steps: 60, warmup_steps: 6, batch_size: 8, learning_rate: 1e-3, eval_every: 20}
search:
  space: {model.num_proxies: {choice: [2, 4, 8]}, model.dropout: {low: 0.0, high: 0.3}}
  stopping: {name: asha, min_steps: 20, reduction_factor: 3}
  trials: 14
resources: {max_concurrent: 1}
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sequential_study_with_the_same_seed_is_reproducible(tmp_path: Path, run_cli) -> None:
    seen: list[Any] = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "replayed.yaml").write_text(STUDY)
        run_cli("run", "replayed.yaml", folder=folder)
        trials = run_cli("trials", "replayed", folder=folder)
        seen.append(
            [
                (trial["outcome"], trial["params"], trial["step"], trial["metrics"]["val_accuracy"])
                for trial in trials
            ]
        )
    assert len(seen[0]) == 14  # more than the random start of TPE
    assert {outcome for outcome, *_ in seen[0]} == {"complete", "pruned"}
    assert seen[0] == seen[1]
