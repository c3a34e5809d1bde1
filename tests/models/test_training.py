"""The Trainer: restorable to the bit, independent of everybody else's randomness, honest about NaN."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from proxytune.models.config import ModelConfig
from proxytune.models.errors import ConfigError
from proxytune.models.training import Diverged, Trainer, TrainingConfig

MODEL = ModelConfig(
    vocab_size=16, max_length=32, num_classes=3, num_proxies=8, embedding_dim=16, feedforward_dim=24
)
TRAINING = TrainingConfig(steps=20, warmup_steps=4, batch_size=8, learning_rate=1e-2, eval_every=5)


def make_batch(seed: int, size: int = 8, length: int = 24) -> Any:
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(0, 16, (size, length), generator=generator, dtype=torch.uint8)
    labels = (token_ids[:, 0] % 3).long()
    return SimpleNamespace(token_ids=token_ids, mask=token_ids != 0, labels=labels)


def losses(trainer: Trainer, seeds: range) -> list[float]:
    return [trainer.train_step(make_batch(seed))["train_loss"] for seed in seeds]


def through_file(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_restored_trainer_goes_on_to_the_bit() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=3)
    losses(trainer, range(6))
    state = through_file(trainer.state_dict())
    expected = losses(trainer, range(6, 14))
    restored = Trainer(MODEL, TRAINING, seed=99)
    restored.load_state_dict(state)
    assert restored.step == 6
    assert losses(restored, range(6, 14)) == expected


def test_state_is_a_snapshot_and_not_a_view() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=3)
    state = trainer.state_dict()
    expected = losses(trainer, range(3))
    restored = Trainer(MODEL, TRAINING, seed=99)
    restored.load_state_dict(state)
    assert losses(restored, range(3)) == expected


def test_trainers_in_one_process_do_not_depend_on_each_other_or_on_the_global_stream() -> None:
    alone = losses(Trainer(MODEL, TRAINING, seed=1), range(4))
    torch.manual_seed(1234)
    first, second = Trainer(MODEL, TRAINING, seed=1), Trainer(MODEL, TRAINING, seed=2)
    interleaved = []
    for seed in range(4):
        torch.rand(7)
        interleaved.append(first.train_step(make_batch(seed))["train_loss"])
        second.train_step(make_batch(seed))
        second.evaluate([make_batch(9)])
    assert interleaved == alone


def test_global_stream_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trainer = Trainer(MODEL, TRAINING, seed=1)
    trainer.train_step(make_batch(0))
    trainer.evaluate([make_batch(0)])
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(
        Trainer(MODEL, TRAINING, seed=2).model.head[0].weight, trainer.model.head[0].weight
    )


@pytest.mark.parametrize("micro_batch_size", [1, 3, 8, 100])
def test_gradient_accumulation_gives_the_same_steps(micro_batch_size: int) -> None:
    model = replace(MODEL, dropout=0.0)
    whole = Trainer(model, TRAINING, seed=1)
    parts = Trainer(model, replace(TRAINING, micro_batch_size=micro_batch_size), seed=1)
    assert losses(parts, range(4)) == pytest.approx(losses(whole, range(4)), abs=1e-5)


def test_schedule_is_linear_and_cycles_beta1() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=1)
    rates, betas = [], []
    for seed in range(20):
        betas.append(trainer.optimizer.param_groups[0]["betas"][0])
        rates.append(trainer.train_step(make_batch(seed))["learning_rate"])
    assert rates[0] == pytest.approx(1e-2 / 25)
    assert rates[3] == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-2 / 25 / 1e4)
    assert (betas[0], betas[3], betas[-1]) == pytest.approx((0.95, 0.85, 0.95))
    falling = torch.tensor(rates[3:])
    assert torch.allclose(falling.diff(), falling.diff()[0].expand(16), rtol=1e-3)
    with pytest.raises(RuntimeError, match="20 steps are done"):
        trainer.train_step(make_batch(0))


def test_divergence_is_reported_before_the_weights_are_touched() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=1)
    trainer.train_step(make_batch(0))
    with torch.no_grad():
        trainer.model.head[0].bias.fill_(float("inf"))
    kept = trainer.model.encoder.tokens.weight.clone()
    with pytest.raises(Diverged, match="after 1 optimizer steps") as raised:
        trainer.train_step(make_batch(1))
    assert raised.value.step == 1
    assert torch.equal(trainer.model.encoder.tokens.weight, kept)
    with pytest.raises(Diverged):
        trainer.evaluate([make_batch(1)])


def test_evaluation_is_a_mean_over_examples() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=1)
    whole, rest = make_batch(0, size=9), make_batch(1, size=2)
    parts = [
        SimpleNamespace(token_ids=whole.token_ids[part], mask=whole.mask[part], labels=whole.labels[part])
        for part in (slice(0, 7), slice(7, 9))
    ]
    together = trainer.evaluate([whole, rest])
    apart = trainer.evaluate([*parts, rest])
    assert apart["val_loss"] == pytest.approx(together["val_loss"], abs=1e-6)
    assert apart["val_accuracy"] == together["val_accuracy"]
    assert {"proxy_cosine", "proxy_cosine_layer2", "proxy_rank", "token_entropy", "proxy_entropy"} <= set(
        together
    )
    with pytest.raises(ValueError, match="no example"):
        trainer.evaluate([])


def test_it_learns() -> None:
    trainer = Trainer(MODEL, replace(TRAINING, steps=120), seed=1)
    batches = [make_batch(seed, size=32) for seed in range(4)]
    before = trainer.evaluate(batches)["val_accuracy"]
    for step in range(120):
        trainer.train_step(batches[step % 4])
    assert trainer.evaluate(batches)["val_accuracy"] > max(0.9, before)


def test_bf16_follows_fp32() -> None:
    exact = losses(
        Trainer(replace(MODEL, dropout=0.0), replace(TRAINING, precision="fp32"), seed=1), range(4)
    )
    rounded = losses(
        Trainer(replace(MODEL, dropout=0.0), replace(TRAINING, precision="bf16"), seed=1), range(4)
    )
    assert rounded == pytest.approx(exact, abs=0.03)
    assert rounded != exact


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"warmup_steps": 20}, "below steps 20"),
        ({"warmup_steps": 1}, "choose 0 or at least 2"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0"),
        ({"precision": "bf61"}, "did you mean 'bf16'"),
    ],
)
def test_wrong_training_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TRAINING, **change)


def test_fp16_needs_cuda() -> None:
    with pytest.raises(ConfigError, match="needs CUDA"):
        Trainer(MODEL, replace(TRAINING, precision="fp16"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_compiled_model_trains_like_the_eager_one_at_several_lengths() -> None:
    model = replace(MODEL, dropout=0.0)
    eager = Trainer(model, TRAINING, seed=3)
    compiled = Trainer(model, replace(TRAINING, compile=True), seed=3)
    for seed, length in enumerate((24, 24, 16, 28)):
        batch = make_batch(seed, length=length)
        expected = eager.train_step(batch)
        assert compiled.train_step(batch) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert compiled.state_dict()["model"].keys() == eager.state_dict()["model"].keys()
