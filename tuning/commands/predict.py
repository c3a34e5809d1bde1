"""`predict`: classify lines of standard input with an exported model."""

import json
import sys
from pathlib import Path

import click

from proxytune.tuning.errors import ProxytuneError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def predict(folder: Path) -> None:
    """Classify each line of standard input with the exported model in FOLDER; prints one JSON object per line, in order.

    A line is one example in the format of the task: a text; a ListOps expression; queries and pairs of recall; two texts separated by a tab; the
    grey levels of an image, 0 to 255 row by row, separated by spaces. For an invalid line the object has
    `error` instead of `label`, and the exit code is 1.

    \b
    echo '[MAX 2 9 [MIN 4 7 ] 0 ]' | proxytune predict winner
    """
    from proxytune.tuning.predict.exported import load_export
    from proxytune.tuning.predict.predict import predict_stream

    refused: list[str] = []
    number = 0
    for answer in predict_stream(load_export(folder), sys.stdin.buffer):
        number = answer["line"]
        if "error" in answer:
            refused.append(f"line {number}: {answer['error']}")
        click.echo(json.dumps(answer))
    if refused:
        raise ProxytuneError(f"{len(refused)} of {number} lines could not be read; {refused[0]}")
