"""Measures throughput, and predicts memory and FLOPs, of every attention mechanism over the length on this machine.

Ratios are relative to explicit softmax attention in the same run, like the paper's 3.8x and 0.08x; absolute figures
depend on the machine. On a CPU one thread is measured in seconds of CPU time, which other load affects less.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table

from proxytune.models.config import ModelConfig
from proxytune.models.footprint import footprint
from proxytune.models.training import Trainer, TrainingConfig
from proxytune.tuning.trial.efficiency import threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANCHOR = "softmax-explicit"
PAPER_LENGTH, PAPER_THROUGHPUT_RATIO, PAPER_MEMORY_RATIO = 4096, 3.8, 0.08

# Name in the table -> differences from the protocol's model. Fused attention on a CPU does not support dropout.
MECHANISMS: dict[str, dict[str, Any]] = {
    ANCHOR: {},
    "softmax-checkpointed": {},
    "softmax (no attention dropout)": {"attention": "softmax", "attention_dropout": 0.0},
    "proxyformer": {},
    "nystromformer": {},
    "nystromformer (convolution 35)": {"attention": "nystromformer", "conv_kernel_size": 35},
    "linformer": {},
    "performer": {},
    "reformer": {},
    "bigbird": {},
}
LENGTHS = (512, 1024, 2048, 4096, 8192)
TOKENS_PER_STEP = 32_768  # tokens that the trainer processes in one pass on a CPU
PRODUCT_SIZE = 2048  # rows and columns of the matrix product whose rate is the yardstick
MIB_PER_STEP = 4096.0  # a step has fewer sequences if its predicted memory exceeds this


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One mechanism at one length. Ratios are relative to ANCHOR at the same length; None if it was not measured."""

    mechanism: str
    length: int
    sequences_per_second: float  # training
    sequences_per_step: int  # of the timed step
    training_mib_per_sequence: float  # predicted, one pass over batch_size sequences
    measured_ratio: float | None  # measured / predicted peak memory of the timed step; None on a CPU
    batch_size: int
    training_gflops_per_sequence: float
    product_gflops: (
        float  # GFLOP/s of a large fp32 matrix product on this device, measured before this length
    )
    product_share: float  # GFLOP/s of the step divided by those of the product
    parameters: int
    throughput_ratio: float | None = None
    memory_ratio: float | None = None


def run(
    lengths: Sequence[int] = LENGTHS,
    mechanisms: Sequence[str] = tuple(MECHANISMS),
    batch_size: int = 32,
    quick: bool = False,
    device: str = "cpu",
    progress: Callable[[Measurement], None] = lambda measurement: None,
) -> list[Measurement]:
    """Measure every mechanism at every length.

    Args:
        lengths: tokens per sequence, all valid.
        mechanisms: names in MECHANISMS.
        batch_size: batch size of the memory prediction.
        quick: time one step with an eighth of the tokens instead of the best of three steps.
        device: cpu or cuda.
        progress: called with each measurement, which has no ratios yet.
    """
    measurements = []
    with threads(1):
        for length in lengths:
            rate = product_gflops(device)
            for mechanism in mechanisms:
                config = model_config(mechanism, length)
                tokens, repeats = (TOKENS_PER_STEP // 8, 1) if quick else (TOKENS_PER_STEP, 3)
                measurement = measure(mechanism, config, batch_size, tokens, repeats, device, rate)
                progress(measurement)
                measurements.append(measurement)
    return with_ratios(measurements)


def model_config(mechanism: str, length: int) -> ModelConfig:
    """The protocol's model for byte input, with 128 proxies, landmarks or features."""
    changes = {"attention": mechanism} | MECHANISMS[mechanism]
    return ModelConfig(vocab_size=512, max_length=length, num_classes=2, **changes)


def measure(
    mechanism: str, config: ModelConfig, batch_size: int, tokens: int, repeats: int, device: str, rate: float
) -> Measurement:
    """Time training steps of about `tokens` tokens; predict memory and FLOPs. `rate`: of `product_gflops`."""
    costs = footprint(config, batch_size, device=device)
    fitting = int(MIB_PER_STEP / costs.training_mib_per_sequence)
    sequences = max(1, min(tokens // config.max_length, fitting))
    seconds, peak = time_steps(config, sequences, repeats, device)
    return Measurement(
        mechanism=mechanism,
        length=config.max_length,
        sequences_per_second=sequences / seconds,
        sequences_per_step=sequences,
        training_mib_per_sequence=costs.training_mib_per_sequence,
        measured_ratio=peak and peak / footprint(config, sequences, device=device).training_bytes,
        batch_size=batch_size,
        training_gflops_per_sequence=costs.training_flops_per_sequence / 1e9,
        product_gflops=rate,
        product_share=costs.training_flops_per_sequence / 1e9 * sequences / seconds / rate,
        parameters=costs.parameters,
    )


def product_gflops(device: str) -> float:
    """GFLOP/s of a large fp32 matrix product, the best of five."""
    a, b = (torch.rand(PRODUCT_SIZE, PRODUCT_SIZE, device=device) for _ in range(2))
    return 2 * PRODUCT_SIZE**3 / 1e9 / min(_time(lambda: a @ b, device) for _ in range(5))


def _time(work: Callable[[], Any], device: str) -> float:
    """Seconds of `work`: of CPU time on a CPU, otherwise until the device has finished."""
    on_gpu = device != "cpu"
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    start = clock()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - start


def steps_of(config: ModelConfig, sequences: int, steps: int, device: str) -> tuple[Trainer, SimpleNamespace]:
    """An fp32 trainer for `steps` steps of one pass each, and a batch in which all tokens are valid."""
    training = TrainingConfig(
        steps=steps,
        warmup_steps=0,
        batch_size=sequences,
        learning_rate=1e-4,
        eval_every=1,
        precision="fp32",
        micro_batch_size=sequences,
    )
    token_ids = torch.randint(
        1, 257, (sequences, config.max_length), generator=torch.Generator().manual_seed(0)
    )
    batch = SimpleNamespace(
        token_ids=token_ids,
        mask=torch.ones_like(token_ids, dtype=torch.bool),
        labels=torch.zeros(sequences, dtype=torch.int64),
    )
    return Trainer(config, training, device=device), batch


def time_steps(config: ModelConfig, sequences: int, repeats: int, device: str) -> tuple[float, int | None]:
    """Seconds of the fastest of `repeats` training steps after a warm-up step, and the peak GPU memory in bytes."""
    trainer, batch = steps_of(config, sequences, repeats + 1, device)
    on_gpu = device != "cpu"
    seconds = []
    for _ in range(repeats + 1):
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds.append(_time(lambda: trainer.train_step(batch), device))
    return min(seconds[1:]), torch.cuda.max_memory_allocated() if on_gpu else None


def with_ratios(measurements: list[Measurement]) -> list[Measurement]:
    """Add the ratios to ANCHOR at the same length."""
    anchors = {m.length: m for m in measurements if m.mechanism == ANCHOR}
    return [
        Measurement(
            **asdict(m)
            | {
                "throughput_ratio": m.sequences_per_second / anchor.sequences_per_second,
                "memory_ratio": m.training_mib_per_sequence / anchor.training_mib_per_sequence,
            }
        )
        if (anchor := anchors.get(m.length))
        else m
        for m in measurements
    ]


def headline(measurements: list[Measurement]) -> dict[str, str]:
    """The figures shown in the table of all benchmarks."""
    return {
        f"a training step of Proxyformer, n = {m.length}": (
            f"{ratio(m.throughput_ratio)} the throughput and {ratio(m.memory_ratio)} the memory of explicit softmax"
        )
        for m in measurements
        if m.mechanism == "proxyformer"
    }


def figure(measurements: list[Measurement]) -> "Figure":
    """Three panels over the length, both axes logarithmic."""
    from matplotlib.figure import Figure

    panels = (
        ("sequences_per_second", "training, sequences/s"),
        ("training_mib_per_sequence", "predicted training memory, MiB/sequence"),
        ("training_gflops_per_sequence", "training GFLOP/sequence"),
    )
    drawing = Figure(figsize=(16, 6), layout="constrained")
    names = list(dict.fromkeys(m.mechanism for m in measurements))
    for axes, (field, label) in zip(drawing.subplots(1, len(panels)), panels, strict=True):
        for i, name in enumerate(names):
            own = [m for m in measurements if m.mechanism == name]
            axes.loglog(
                [m.length for m in own],
                [getattr(m, field) for m in own],
                label=name,
                color=f"C{i}",
                marker="o",
                markersize=4,
                linewidth=3 if name == "proxyformer" else 1.5,
                linestyle="--" if name.startswith("softmax") else "-",
            )
        axes.set_xscale("log", base=2)
        lengths = sorted({m.length for m in measurements})
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
        axes.set_xlabel("n, tokens per sequence")
        axes.set_title(label)
        axes.grid(alpha=0.3)
    drawing.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return drawing


def table(measurements: list[Measurement]) -> Table:
    """A table of all measurements, with one section per length."""
    result = Table(
        title=f"Training, fp32, one pass of {measurements[0].batch_size} sequences for the memory",
        caption=(
            f"x: ratio to {ANCHOR} at the same length. % of product: of the FLOP/s of a matrix product of size {PRODUCT_SIZE}. Paper, n = {PAPER_LENGTH}, RTX 3090: "
            f"{PAPER_THROUGHPUT_RATIO}x the throughput, {PAPER_MEMORY_RATIO}x the memory of self-attention."
        ),
    )
    for name in ("n", "mechanism"):
        result.add_column(name)
    for name in (
        "sequences/s",
        "x",
        "MiB/sequence",
        "x",
        "measured/predicted",
        "GFLOP/sequence",
        "% of product",
    ):
        result.add_column(name, justify="right")
    for m, following in zip(measurements, [*measurements[1:], None], strict=True):
        result.add_row(
            str(m.length),
            m.mechanism,
            f"{m.sequences_per_second:.3g}",
            ratio(m.throughput_ratio),
            f"{m.training_mib_per_sequence:.1f}",
            ratio(m.memory_ratio),
            ratio(m.measured_ratio),
            f"{m.training_gflops_per_sequence:.2f}",
            f"{m.product_share:.0%}",
            end_section=following is not None and following.length != m.length,
        )
    return result


def ratio(value: float | None) -> str:
    """Format a ratio with three digits, or as a dash."""
    return "-" if value is None else f"{value:.3g}x"
