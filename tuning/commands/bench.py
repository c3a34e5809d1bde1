"""`bench`: the cost of a training step of each mechanism on this machine."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxytune.tuning.commands.options import err, json_option, out, print_json
from proxytune.tuning.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def measured(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all benchmarks share."""
    for option in (
        click.option(
            "--out",
            "folder",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path("build/bench"),
            show_default=True,
            help="Folder for the dated JSON and PNG.",
        ),
        click.option("--quick", is_flag=True, help="A short version that takes a minute, for CI."),
        json_option,
    ):
        command = option(command)
    return command


def finish(
    folder: Path,
    as_json: bool,
    name: str,
    headline: dict[str, str],
    result: Any,
    figure: "Figure",
    shown: Any = None,
) -> None:
    """Save a result, and print its JSON, or `shown` (default: the headline) and the path."""
    from proxytune.tuning.compare.saved import save_result

    path = save_result(folder, name, headline, result, figure)
    if as_json:
        print_json(result)
        return
    if shown is not None:
        out.print(shown)
    else:
        for what, value in headline.items():
            out.print(f"{what}: {value}")
    out.print(f"saved {path} and {path.with_suffix('.png').name}")


def numbers(option: str, text: str) -> list[int]:
    """Parse the comma-separated integers of an option.

    Raises:
        InputError: the text has another form.
    """
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise InputError(f"{option} is {text!r}: expected integers separated by commas") from None


@click.command()
@click.option("--lengths", default="512,1024,2048,4096,8192", show_default=True, help="Tokens per sequence.")
@click.option(
    "--batch-size", default=32, show_default=True, help="Sequences per batch, for the predicted memory."
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option(
    "--packed",
    metavar="1,2,4",
    help="Instead, train these numbers of Proxyformers concurrently on the device.",
)
@measured
def bench(
    lengths: str, batch_size: int, device: str, packed: str | None, folder: Path, quick: bool, as_json: bool
) -> None:
    """Throughput, predicted memory and FLOPs of every attention mechanism, as ratios to explicit softmax.

    On a GPU the memory is also measured. --packed measures the effect of trials that share the device (`gpu: auto`), at
    the first of the lengths.

    \b
    proxytune bench --quick --lengths 512,1024
    proxytune bench --device cuda --lengths 2048 --packed 1,2,4,8
    """
    import torch

    from proxytune.models.errors import ConfigError
    from proxytune.tuning.compare import mechanisms as models
    from proxytune.tuning.compare import packed as together

    tokens = numbers("--lengths", lengths)
    at_once = numbers("--packed", packed) if packed else []
    if any(number < 1 for number in at_once):
        raise InputError(f"--packed is {packed!r}: every number of trainings must be at least 1")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device is cuda: torch finds no GPU on this machine; use --device cpu")
    try:
        for length, mechanism in ((length, name) for length in tokens for name in models.MECHANISMS):
            models.model_config(mechanism, length)
    except ConfigError as error:
        raise InputError(f"--lengths is {lengths!r}: {error}") from None

    def progress(what: str, m: models.Measurement | together.Packed) -> None:
        line = f"n = {m.length}, {what}: {m.sequences_per_second:.3g} sequences/s"
        err.print(line)

    if at_once:
        rows = together.run(
            at_once, tokens[0], batch_size, 2.0 if quick else 10.0, device,
            lambda row: progress(f"{row.trials} at once", row),
        )  # fmt: skip
        finish(
            folder,
            as_json,
            "packed",
            together.headline(rows),
            [asdict(row) for row in rows],
            together.figure(rows),
            together.table(rows),
        )
        return
    measurements = models.run(
        tokens, batch_size=batch_size, quick=quick, device=device, progress=lambda m: progress(m.mechanism, m)
    )
    finish(
        folder,
        as_json,
        "models",
        models.headline(measurements),
        [asdict(measurement) for measurement in measurements],
        models.figure(measurements),
        models.table(measurements),
    )
