"""TrainingConfig: the settings of a training; an invalid configuration cannot be constructed."""

from __future__ import annotations

from dataclasses import dataclass

from proxytune.models.config import ModelConfig
from proxytune.models.errors import ConfigError
from proxytune.models.rules import require_at_least, require_not_negative, require_one_of, require_positive

MOST_STEPS = 10**9

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The settings of a training. The defaults are the LRA protocol's, except the proxies' learning rate (optimizer.py).

    Raises:
        ConfigError: a value is out of range, or two values exclude each other.
    """

    steps: int  # total optimizer steps; determines the schedule
    warmup_steps: int  # 0, or 2 <= warmup_steps < steps
    batch_size: int  # examples per optimizer step
    learning_rate: float  # peak
    eval_every: int  # optimizer steps between evaluations
    proxy_learning_rate_multiple: float = 10.0  # > 0; of learning_rate, for Proxyformer's proxies
    weight_decay: float = (
        0.0  # >= 0; decoupled (AdamW): a step scales every weight by 1 - learning_rate x weight_decay
    )
    adam_eps: float = 1e-6  # > 0; for all weights but the proxies (optimizer.py)
    gradient_clip_norm: float | None = None  # > 0: maximum norm of the gradient
    gradient_clip_value: float | None = None  # > 0: each element of the gradient is clipped to +- this
    precision: str = "auto"  # auto | fp32 | bf16 | fp16 (autocast; fp16 on CUDA only)
    micro_batch_size: int | None = None  # examples per forward pass; None: chosen for speed on the device
    compile: bool = False  # torch.compile: tens of seconds at the start, equal results up to rounding

    def __post_init__(self) -> None:
        for name in ("steps", "eval_every"):
            require_at_least(name, getattr(self, name), 1, highest=MOST_STEPS)
        require_at_least("warmup_steps", self.warmup_steps, 0, highest=MOST_STEPS)
        require_at_least("batch_size", self.batch_size, 1)
        if self.warmup_steps >= self.steps:
            raise ConfigError(f"warmup_steps is {self.warmup_steps}: it must be below steps {self.steps}")
        if self.warmup_steps == 1:
            raise ConfigError(
                "warmup_steps is 1: OneCycleLR cannot rise within one step; choose 0 or at least 2"
            )
        for name in ("learning_rate", "proxy_learning_rate_multiple", "adam_eps"):
            require_positive(name, getattr(self, name))
        require_not_negative("weight_decay", self.weight_decay)
        for name in ("gradient_clip_norm", "gradient_clip_value"):
            if getattr(self, name) is not None:
                require_positive(name, getattr(self, name))
        if self.gradient_clip_norm is not None and self.gradient_clip_value is not None:
            raise ConfigError(
                f"gradient_clip_norm is {self.gradient_clip_norm} with gradient_clip_value "
                f"{self.gradient_clip_value}: choose one of them"
            )
        require_one_of("precision", self.precision, PRECISIONS)
        if self.micro_batch_size is not None:
            require_at_least("micro_batch_size", self.micro_batch_size, 1)


def check_together(model: ModelConfig, training: TrainingConfig) -> None:
    """Check that the training has no settings for parts that the model does not have.

    Raises:
        ConfigError: proxy_learning_rate_multiple is not its default and the model has no proxies.
    """
    multiple = training.proxy_learning_rate_multiple
    if model.attention != "proxyformer" and multiple != TrainingConfig.proxy_learning_rate_multiple:
        raise ConfigError(
            f"proxy_learning_rate_multiple is {multiple} with attention {model.attention!r}: it has no proxies; "
            "remove proxy_learning_rate_multiple"
        )
