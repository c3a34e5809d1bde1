"""The Trainer: bitwise resume, independence of the global random state, divergence, gradient accumulation."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from proxytune.models import training
from proxytune.models.attention import Trace
from proxytune.models.config import ModelConfig
from proxytune.models.errors import ConfigError
from proxytune.models.passes import split_into_passes
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


def test_restored_trainer_resumes_bitwise_identically() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=3)
    losses(trainer, range(6))
    state = through_file(trainer.state_dict())
    expected = losses(trainer, range(6, 14))
    restored = Trainer(MODEL, TRAINING, seed=99)
    restored.load_state_dict(state)
    assert restored.step == 6
    assert losses(restored, range(6, 14)) == expected


def test_state_dict_is_a_copy() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=3)
    state = trainer.state_dict()
    expected = losses(trainer, range(3))
    restored = Trainer(MODEL, TRAINING, seed=99)
    restored.load_state_dict(state)
    assert losses(restored, range(3)) == expected


def test_checkpoint_of_version_0_1_is_rejected() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=3)
    state = trainer.state_dict()
    del state["first_proxies"]
    with pytest.raises(ConfigError, match=r"proxytune 0\.1.*cannot be resumed; start a new study"):
        trainer.load_state_dict(state)


def test_trainers_do_not_depend_on_each_other_or_on_global_rng() -> None:
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


def test_global_rng_state_is_unchanged() -> None:
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
    one_pass = Trainer(model, TRAINING, seed=1)
    accumulated = Trainer(model, replace(TRAINING, micro_batch_size=micro_batch_size), seed=1)
    assert losses(accumulated, range(4)) == pytest.approx(losses(one_pass, range(4)), abs=1e-5)


@pytest.mark.parametrize("documents", [1, 2])
@pytest.mark.parametrize("name", ["proxyformer", "nystromformer", "softmax"])
def test_trimmed_passes_give_the_loss_and_gradient_of_one_full_pass(
    name: str, documents: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CPU_TOKENS_PER_PASS", 200)
    model = ModelConfig(
        vocab_size=16, max_length=96, num_classes=3, num_proxies=8, num_landmarks=8, dropout=0.0,
        attention=name, num_documents=documents,
    )  # fmt: skip
    batch = mixed_lengths(10, 96, documents)
    trainer = Trainer(model, TRAINING, seed=1)
    gradients: list[torch.Tensor] = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(weight.grad.clone() for weight in trainer.model.parameters())
    )
    passes = list(split_into_passes(batch, None, 200))
    assert len(passes) > 2
    assert passes[0][1] < passes[-1][1]
    untrimmed = Trainer(model, TRAINING, seed=1).model
    trace = Trace()
    loss = torch.nn.functional.cross_entropy(untrimmed(batch.token_ids, batch.mask, trace), batch.labels)
    total = loss + (model.contrastive_weight * sum(trace.losses) / 2 if trace.losses else 0)
    total.backward()
    assert trainer.train_step(batch)["train_loss"] == pytest.approx(loss.item(), abs=1e-5)
    for trimmed, weight in zip(gradients, untrimmed.parameters(), strict=True):
        assert torch.allclose(trimmed, weight.grad, atol=1e-5)


def mixed_lengths(size: int, length: int, documents: int = 1) -> Any:
    generator = torch.Generator().manual_seed(0)
    shape = (size, length) if documents == 1 else (size, documents, length)
    ids = torch.randint(1, 16, shape, generator=generator)
    lengths = torch.randint(5, length, shape[:-1], generator=generator)
    ids[torch.arange(length) >= lengths[..., None]] = 0
    ids[..., 2] = 0  # padding in the middle, like black pixels
    return SimpleNamespace(token_ids=ids, mask=ids != 0, labels=torch.arange(size) % 3)


def test_predictions_are_in_batch_order() -> None:
    trainer = Trainer(MODEL, replace(TRAINING, micro_batch_size=2), seed=1)
    batch = mixed_lengths(7, 32)
    with torch.no_grad():
        expected = trainer.model.eval()(batch.token_ids, batch.mask)
    assert torch.allclose(trainer.predict(batch), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "tokens", "lengths"),
    [
        (4, None, [[1, 1, 30, 31], [33, 60, 64, 64], [90]]),
        (None, 130, [[1, 1, 30, 31], [33, 60], [64, 64], [90]]),
    ],
)
def test_passes_are_sorted_by_length_and_respect_the_limits(
    size: int | None, tokens: int | None, lengths: list[list[int]]
) -> None:
    mask = torch.arange(90) < torch.tensor([64, 1, 90, 33, 64, 30, 60, 31, 1])[:, None]
    batch = SimpleNamespace(token_ids=mask.int(), mask=mask, labels=torch.zeros(9))
    passes = list(split_into_passes(batch, size, tokens))
    assert [mask[rows].sum(dim=-1).tolist() for rows, _ in passes] == lengths
    # A pass is padded to a multiple of 32, at most to the length of the batch.
    assert [length for _, length in passes] == [min(90, -(-part[-1] // 32) * 32) for part in lengths]


def test_divergence_is_raised_before_weights_change() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=1)
    trainer.train_step(make_batch(0))
    with torch.no_grad():
        trainer.model.head[0].bias.fill_(float("inf"))
    before = trainer.model.encoder.tokens.weight.clone()
    with pytest.raises(Diverged, match="after 1 optimizer steps") as raised:
        trainer.train_step(make_batch(1))
    assert raised.value.step == 1
    assert torch.equal(trainer.model.encoder.tokens.weight, before)
    with pytest.raises(Diverged):
        trainer.evaluate([make_batch(1)])


def test_evaluate_averages_over_examples() -> None:
    trainer = Trainer(MODEL, TRAINING, seed=1)
    large, small = make_batch(0, size=9), make_batch(1, size=2)
    parts = [
        SimpleNamespace(token_ids=large.token_ids[part], mask=large.mask[part], labels=large.labels[part])
        for part in (slice(0, 7), slice(7, 9))
    ]
    expected = trainer.evaluate([large, small])
    divided = trainer.evaluate([*parts, small])
    assert divided["val_loss"] == pytest.approx(expected["val_loss"], abs=1e-6)
    assert divided["val_accuracy"] == expected["val_accuracy"]
    assert {"proxy_cosine", "proxy_cosine_layer2", "proxy_rank", "map_error", "proxy_moved"} <= set(expected)
    with pytest.raises(ValueError, match="no example"):
        trainer.evaluate([])


def test_trainer_learns() -> None:
    trainer = Trainer(MODEL, replace(TRAINING, steps=120), seed=1)
    batches = [make_batch(seed, size=32) for seed in range(4)]
    before = trainer.evaluate(batches)["val_accuracy"]
    for step in range(120):
        trainer.train_step(batches[step % 4])
    assert trainer.evaluate(batches)["val_accuracy"] > max(0.9, before)


def test_bf16_losses_are_close_to_fp32() -> None:
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
        ({"proxy_learning_rate_multiple": 0.0}, "proxy_learning_rate_multiple is 0.0"),
        ({"adam_eps": -1e-8}, "adam_eps is -1e-08"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"gradient_clip_value": 0}, "gradient_clip_value is 0"),
        (
            {"gradient_clip_norm": 1.0, "gradient_clip_value": 2.0},
            "gradient_clip_norm is 1.0 with gradient_clip_value 2.0: choose one of them",
        ),
        ({"precision": "bf61"}, "did you mean 'bf16'"),
    ],
)
def test_invalid_training_config_is_rejected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TRAINING, **change)


def test_fp16_needs_cuda() -> None:
    with pytest.raises(ConfigError, match="needs CUDA"):
        Trainer(MODEL, replace(TRAINING, precision="fp16"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")  # torch emits warnings while it traces
def test_compiled_model_trains_like_the_eager_model() -> None:
    model = replace(MODEL, dropout=0.0)
    eager = Trainer(model, TRAINING, seed=3)
    compiled = Trainer(model, replace(TRAINING, compile=True), seed=3)
    for seed, length in enumerate((24, 24, 16, 28)):
        batch = make_batch(seed, length=length)
        expected = eager.train_step(batch)
        assert compiled.train_step(batch) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert compiled.state_dict()["model"].keys() == eager.state_dict()["model"].keys()
