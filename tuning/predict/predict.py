"""`proxytune predict`: writes a JSON object for each input line, in order, as soon as the line arrives."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import torch

from proxytune.datasets import DataError
from proxytune.models.training import CPU_TOKENS_PER_PASS
from proxytune.tuning.errors import InputError
from proxytune.tuning.predict.exported import Exported
from proxytune.tuning.predict.inputs import Documents, InputFormat, padded

MAX_BATCH = 32
MAX_LINE_BYTES = 64 << 20
_CHUNK = 1 << 16


class Predictor:
    """Classifies lines with an exported model."""

    def __init__(self, exported: Exported) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = exported.classifier().to(self._device)
        conventions = exported.provenance["data"]["conventions"]
        self.input_format = InputFormat(exported.spec.task, self._model.config, conventions)

    def predict(self, lines: Sequence[bytes], first: int = 1) -> list[dict[str, Any]]:
        """{"line", "label", "probabilities"} for each line, or {"line", "error"} if it is malformed.

        Args:
            lines: lines without line ends.
            first: number of the first line.
        """
        answers: dict[int, dict[str, Any]] = {}
        readable: dict[int, Documents] = {}
        for number, line in enumerate(lines, first):
            try:
                readable[number] = self.input_format.parse(line)
            except DataError as error:
                answers[number] = {"line": number, "error": str(error)}
        for numbers in self._passes(readable):
            for number, row in zip(
                numbers, self._probabilities([readable[key] for key in numbers]), strict=True
            ):
                label = max(range(len(row)), key=row.__getitem__)
                answers[number] = {
                    "line": number,
                    "label": label,
                    "probabilities": [round(p, 6) for p in row],
                }
        return [answers[number] for number in sorted(answers)]

    def _passes(self, readable: dict[int, Documents]) -> Iterator[list[int]]:
        """The lines of each forward pass, grouped by length, with a limited number of tokens."""
        lengths = {number: max(map(len, documents)) for number, documents in readable.items()}
        waiting: list[int] = []
        for number in sorted(readable, key=lengths.__getitem__):
            tokens = (len(waiting) + 1) * lengths[number] * self._model.config.num_documents
            if waiting and (len(waiting) == MAX_BATCH or tokens > CPU_TOKENS_PER_PASS):
                yield waiting
                waiting = []
            waiting.append(number)
        if waiting:
            yield waiting

    @torch.no_grad()
    def _probabilities(self, rows: Sequence[Documents]) -> list[list[float]]:
        token_ids = torch.from_numpy(padded(rows)).to(self._device)
        logits = self._model(token_ids, token_ids != 0)
        probabilities: list[list[float]] = logits.double().softmax(dim=-1).tolist()
        return probabilities


def predict_stream(exported: Exported, stream: BinaryIO) -> Iterator[dict[str, Any]]:
    """Yield the prediction for each line of a stream; received lines are processed before waiting for more.

    Raises:
        InputError: a line is longer than MAX_LINE_BYTES.
    """
    predictor = Predictor(exported)
    number = 1
    for lines in _batches(stream):
        yield from predictor.predict(lines, number)
        number += len(lines)


def _batches(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Complete lines without line ends, as many as have arrived, at most MAX_BATCH at a time."""
    rest = b""
    while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]  # does not wait for a full chunk
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise InputError(
                f"a line is longer than {MAX_LINE_BYTES >> 20} MiB; one example per line is expected"
            )
        yield from _cut(lines)
    if rest:
        yield [rest.removesuffix(b"\r")]


def _cut(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    cleaned = [line.removesuffix(b"\r") for line in lines]
    for start in range(0, len(cleaned), MAX_BATCH):
        yield cleaned[start : start + MAX_BATCH]
