"""The modules that configurations, models and a training step import, in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Prints three lists of imported modules: after the configurations, after the models, after training steps and a footprint.
PROGRAM = """
import json, sys
import proxytune.models.config, proxytune.models.training_config
print(json.dumps(list(sys.modules)))
import proxytune.models.footprint
from proxytune.models.training import Trainer
print(json.dumps(list(sys.modules)))
sys.path.append(sys.argv[1])
from tests.models.test_training import MODEL, TRAINING, make_batch
trainer = Trainer(MODEL, TRAINING)
trainer.train_step(make_batch(0))
trainer.load_state_dict(trainer.state_dict())
trainer.train_step(make_batch(1))
assert trainer.step == 2
proxytune.models.footprint.footprint(MODEL, 2)
print(json.dumps(list(sys.modules)))
"""


@pytest.fixture(scope="module")
def imported() -> list[set[str]]:
    command = [sys.executable, "-P", "-c", PROGRAM, str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [set(json.loads(line)) for line in done.stdout.splitlines()]


def test_config_imports_neither_torch_nor_attention(imported: list[set[str]]) -> None:
    assert "proxytune.models.training_config" in imported[0]
    assert not {"torch", "proxytune.models.attention"} & imported[0]


def test_import_of_models_is_light(imported: list[set[str]]) -> None:
    heavy = {
        "ray",
        "optuna",
        "mlflow",
        "transformers",
        "matplotlib",
        "proxytune.datasets",
        "proxytune.tuning",
    }
    assert "torch" in imported[1]
    assert not heavy & imported[1]


def test_training_and_prediction_do_not_import_torch_dynamo(imported: list[set[str]]) -> None:
    """PyTorch's optimizers and fake tensors import torch._dynamo, 2 s of CPU at the start of each worker."""
    assert "torch._dynamo" not in imported[2]
