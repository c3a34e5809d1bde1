"""Tests that require a GPU (`make test-gpu`). docs/GPU.md lists each CUDA branch of the product with its test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from proxytune.models.dropout import dropout
from proxytune.models.training import Trainer, autocast_dtype
from proxytune.tuning.cluster.node_probe import _cuda
from proxytune.tuning.cluster.trainable import device_name
from proxytune.tuning.compare import mechanisms, packed
from proxytune.tuning.errors import InputError
from proxytune.tuning.predict.exported import load_export
from proxytune.tuning.predict.predict import Predictor
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.run.provenance import driver_facts
from proxytune.tuning.store.study import open_study
from proxytune.tuning.trial.local_checks import check_device
from tests.models.test_training import MODEL, TRAINING, losses, through_file

ROOT = Path(__file__).parents[2]
CUDA_NAMES = {"is_cuda", "GradScaler", "autocast", "fork_rng", "pin_memory", "Stream", "synchronize"}
gpu = pytest.mark.gpu


def branches(path: Path) -> Iterator[str]:
    """The functions of a file that mention CUDA or a function of torch that behaves differently on a GPU."""

    def search(node: ast.AST, scope: tuple[str, ...]) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                yield from search(child, (*scope, child.name))
                continue
            name = child.attr if isinstance(child, ast.Attribute) else ""
            value = child.value if isinstance(child, ast.Constant) else ""
            if name in CUDA_NAMES or "cuda" in name or value == "cuda":
                yield f"{path.relative_to(ROOT)}: {'.'.join(scope)}"
            yield from search(child, scope)

    return search(ast.parse(path.read_text()), ())


def test_every_cuda_branch_is_listed_with_existing_tests() -> None:
    files = (path for room in ("models", "datasets", "tuning") for path in (ROOT / room).rglob("*.py"))
    found = {branch for path in files for branch in branches(path)}
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "GPU.md").read_text().splitlines()
        if re.match(r"\| `\w+/", line)
    ]
    assert {cells[0].strip("`") for cells in rows} == found
    for _, _, *columns in rows:
        for path, name in re.findall(r"`(tests/[\w/.]+)::(\w+)`", " ".join(columns)):
            assert f"def {name}(" in (ROOT / path).read_text(), (path, name)


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_restored_trainer_continues_with_the_same_losses(precision: str) -> None:
    training = replace(TRAINING, precision=precision)
    trainer = Trainer(MODEL, training, seed=3, device="cuda")
    losses(trainer, range(6))
    state = through_file(trainer.state_dict())
    expected = losses(trainer, range(6, 14))
    restored = Trainer(MODEL, training, seed=99, device="cuda")
    restored.load_state_dict(state)
    assert losses(restored, range(6, 14)) == pytest.approx(
        expected, rel=1e-3
    )  # CUDA's order of summation varies
    assert restored.scaler.get_scale() == trainer.scaler.get_scale()


@gpu
def test_trainer_does_not_share_the_global_generator() -> None:
    alone = losses(Trainer(MODEL, TRAINING, seed=1, device="cuda"), range(4))
    torch.cuda.manual_seed(1234)
    before = torch.cuda.get_rng_state()
    assert losses(Trainer(MODEL, TRAINING, seed=1, device="cuda"), range(4)) == pytest.approx(alone, rel=1e-3)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@gpu
def test_losses_match_those_on_a_cpu() -> None:
    model, training = replace(MODEL, dropout=0.0), replace(TRAINING, precision="fp32")
    on_cpu = losses(Trainer(model, training, seed=1), range(6))
    assert losses(Trainer(model, training, seed=1, device="cuda"), range(6)) == pytest.approx(
        on_cpu, rel=0.01
    )


@gpu
def test_losses_of_a_compiled_model_match_eager_mode() -> None:
    model = replace(MODEL, dropout=0.0)
    eager = losses(Trainer(model, TRAINING, seed=3, device="cuda"), range(3))
    compiled = losses(Trainer(model, replace(TRAINING, compile=True), seed=3, device="cuda"), range(3))
    assert compiled == pytest.approx(eager, rel=0.01)


@gpu
def test_auto_precision_is_bf16_if_the_device_supports_it() -> None:
    expected = torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    assert autocast_dtype("auto", torch.device("cuda")) == expected


@gpu
def test_dropout_zeroes_and_rescales_at_the_given_rate() -> None:
    y = dropout(torch.full((1000, 1000), 3.0, device="cuda"), 0.37, training=True)
    assert (y == 0).double().mean().item() == pytest.approx(0.37, abs=0.005)
    assert y[y != 0].mean().item() == pytest.approx(3 / 0.63, rel=1e-4)


@gpu
def test_device_name_is_the_same_in_every_record() -> None:
    name = torch.cuda.get_device_name()
    assert device_name() == name
    assert driver_facts(None)["hardware"]["gpus"][0] == name
    assert any(name in line for line in _cuda()["gpus"])
    assert _cuda()["build"] is not None


@gpu
def test_more_gpus_than_available_is_rejected(make_small: Any) -> None:
    available = torch.cuda.device_count()
    check_device(make_small(f"resources.gpu={available}", "training.precision=fp16"))
    with pytest.raises(InputError, match=f"more than this machine has \\({available}\\)"):
        check_device(make_small(f"resources.gpu={available + 1}"))


@gpu
def test_study_shares_the_gpu_and_its_winner_predicts_the_same_on_a_cpu(
    make_small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from proxytune.tuning.export.export import export_study

    spec = make_small("resources.gpu=auto", "resources.max_concurrent=2")
    study = run_study(spec)
    events = (spec.folder / "outbox" / "events.jsonl").read_text()
    assert torch.cuda.get_device_name() in events
    assert re.search(r'"gpu":\s*0?\.\d+', events)  # a fraction of the GPU
    (written,) = export_study(open_study(study.name, spec.storage), tmp_path / "winner")
    lines = [b"[MAX 4 3 [MIN 2 3 ] 1 0 ]", b"[SM 1 2 3 ]"]
    on_gpu = Predictor(load_export(written.folder)).predict(lines)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = Predictor(load_export(written.folder)).predict(lines)
    for gpu_row, cpu_row in zip(on_gpu, on_cpu, strict=True):
        assert gpu_row["probabilities"] == pytest.approx(cpu_row["probabilities"], abs=1e-3)


@gpu
def test_memory_of_a_step_matches_the_prediction() -> None:
    names = (mechanisms.ANCHOR, "softmax (no attention dropout)", "proxyformer")
    for row in mechanisms.run((2048,), names, batch_size=8, device="cuda"):
        assert row.measured_ratio == pytest.approx(1.0, abs=0.2)


@gpu
def test_two_trainings_share_the_device() -> None:
    alone, two = packed.run((1, 2), 512, batch_size=8, seconds=2.0)
    assert two.throughput_ratio is not None
    assert min(alone.sequences_per_second, two.sequences_per_second) > 0
