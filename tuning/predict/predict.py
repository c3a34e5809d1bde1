"""`proxytune predict`: a line in, a JSON object out, in the same order, as soon as a line is there."""

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
    """An exported classifier that takes lines."""

    def __init__(self, exported: Exported) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = exported.classifier().to(self._device)
        conventions = exported.provenance["data"]["conventions"]
        self.input_format = InputFormat(exported.spec.task, self._model.config, conventions)

    def predict(self, lines: Sequence[bytes], first: int = 1) -> list[dict[str, Any]]:
        """{"line", "label", "probabilities"} for each line, or {"line", "error"} where it is not in the task's form.

        Args:
            lines: without their line ends.
            first: the number of the first one.
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
                numbers, self._probabilities([readable[one] for one in numbers]), strict=True
            ):
                label = max(range(len(row)), key=row.__getitem__)
                answers[number] = {
                    "line": number,
                    "label": label,
                    "probabilities": [round(p, 6) for p in row],
                }
        return [answers[number] for number in sorted(answers)]

    def _passes(self, readable: dict[int, Documents]) -> Iterator[list[int]]:
        """The lines of each forward pass: similar lengths together, not too many tokens at a time."""
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
    """The answer to each line of a stream: what has come is answered before more is waited for.

    Raises:
        InputError: a line of more than MAX_LINE_BYTES.
    """
    predictor = Predictor(exported)
    number = 1
    for lines in _batches(stream):
        yield from predictor.predict(lines, number)
        number += len(lines)


def _batches(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Whole lines without their ends, as many as have come, at most MAX_BATCH at a time."""
    rest = b""
    while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]  # what has come, without waiting for more
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise InputError(
                f"a line of more than {MAX_LINE_BYTES >> 20} MiB; one example a line is expected"
            )
        yield from _cut(lines)
    if rest:
        yield [rest.removesuffix(b"\r")]


def _cut(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    cleaned = [line.removesuffix(b"\r") for line in lines]
    for start in range(0, len(cleaned), MAX_BATCH):
        yield cleaned[start : start + MAX_BATCH]
