"""The exported classifier as torch.export (model.pt2) and ONNX (model.onnx) programs, each checked.

Both are written in a separate process, because exporting imports many modules and emits many warnings. Each is then
loaded in a fresh process and run on real examples. A program that cannot be written, or whose logits differ, is omitted
and the reason is recorded. Programs accept any batch size up to MAX_BATCH, and any length up to the task's unless the
mechanism's operators require a fixed length.
"""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from proxytune.datasets import PreparedTask
    from proxytune.models.classifier import Classifier

PT2, ONNX = "model.pt2", "model.onnx"
INPUTS = ("token_ids", "mask")
TOLERANCE = 1e-4
"""Absolute and relative tolerance of a logit against the eager model's."""
MAX_BATCH = 4096
_CHECK_SECONDS, _WRITE_SECONDS = 600, 1800


def write_programs(folder: Path, model: "Classifier", prepared: "PreparedTask") -> dict[str, dict[str, Any]]:
    """Write model.pt2 and model.onnx into a folder that contains model.json and the weights.

    Returns:
        For each program {"length", "max_logit_difference", "checked_on"}, or {"missing": the reason}.
    """
    done = _child("write", str(folder), seconds=_WRITE_SECONDS)
    if "missing" in done:
        return {PT2: done, ONNX: done}
    facts = {}
    for name in (PT2, ONNX):
        facts[name] = fact = done[name]
        if "missing" not in fact:
            fact |= _checked(folder / name, model, prepared, fixed=fact["length"].startswith("exactly"))
        if "missing" in fact:
            (folder / name).unlink(missing_ok=True)
            facts[name] = {"missing": fact["missing"]}
    return facts


def _checked(path: Path, model: "Classifier", prepared: "PreparedTask", *, fixed: bool) -> dict[str, Any]:
    """Compare the program, in a fresh process, with the eager model on validation examples of two lengths."""
    import torch

    from proxytune.datasets.batches import collate

    split = prepared.validation
    shortest = np.argsort(split.lengths, kind="stable")[:2]
    batches = [collate(split, [0], full_padding=True), collate(split, shortest, full_padding=fixed)]
    arrays: dict[str, Any] = {}
    with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        for number, batch in enumerate(batches):
            logits = model(batch.token_ids, batch.mask)
            for name, tensor in (
                *zip(INPUTS, (batch.token_ids, batch.mask), strict=True),
                ("logits", logits),
            ):
                arrays[f"{name}_{number}"] = tensor.numpy()
        inputs = Path(scratch, "inputs.npz")
        np.savez(inputs, **arrays)
        done = _child("check", str(path), str(inputs), seconds=_CHECK_SECONDS)
    if "missing" in done:
        return {"missing": f"the program cannot be run: {done['missing']}"}
    if not done["close"]:
        return {"missing": f"its logits differ from the eager model's by up to {done['difference']:.2g}"}
    return {
        "max_logit_difference": done["difference"],
        "checked_on": f"{sum(len(batch.labels) for batch in batches)} validation examples in a fresh process",
    }


def _child(*arguments: str, seconds: float) -> dict[str, Any]:
    """Run this module in a process; return the JSON object in its last output line, or {"missing": reason}."""
    command = [sys.executable, "-P", "-m", __name__, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"missing": f"the process exceeded {seconds:g} seconds"}
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"missing": f"the process exited with code {done.returncode}: {last}"[:300]}
    return dict(answer)


# The following functions run in the child processes.


def write_unchecked(folder: Path) -> dict[str, dict[str, Any]]:
    """Write both programs into `folder` without checking them; returns for each its lengths, or why it is missing."""
    import torch

    from proxytune.models.exported import build_classifier

    torch.set_num_threads(1)
    try:
        program, length = export_program(build_classifier(folder))
        torch.export.save(program, folder / PT2)
    except Exception as error:  # any failure of the exporter is recorded; the export continues
        return {name: {"missing": _reason(error)} for name in (PT2, ONNX)}
    facts: dict[str, dict[str, Any]] = {PT2: {"length": length}, ONNX: {"length": length}}
    for package in ("onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            facts[ONNX] = {"missing": f"{package} is not installed; pip install 'proxytune[onnx]'"}
            return facts
    try:
        written = torch.onnx.export(program, (), dynamo=True, verbose=False, input_names=INPUTS)
        assert written is not None
        written.save(folder / ONNX)
    except Exception as error:  # mostly an operator that ONNX does not support
        facts[ONNX] = {"missing": _reason(error)}
    return facts


def export_program(model: "Classifier") -> "tuple[ExportedProgram, str]":
    """The classifier as a torch.export program, and the lengths it accepts ("1 to 128" or "exactly 128").

    Raises:
        Exception: the error of torch.export if the model cannot be traced with a fixed length either.
    """
    import torch
    from torch.export import Dim

    config = model.config
    documents = (2,) if config.num_documents == 2 else ()
    token_ids = torch.ones(3, *documents, config.max_length, dtype=torch.int64)
    dims = {0: Dim("batch", min=1, max=MAX_BATCH)}
    lengths = {len(documents) + 1: Dim("length", min=1, max=config.max_length)}
    with torch.no_grad():
        for shape, length in (
            (dims | lengths, f"1 to {config.max_length}"),
            (dims, f"exactly {config.max_length}"),
        ):
            try:
                program = torch.export.export(
                    model,
                    (token_ids, token_ids != 0),
                    dynamic_shapes=dict.fromkeys(INPUTS, shape),
                    strict=False,
                )
                return program, length
            except Exception:
                if length.startswith("exactly"):
                    raise
    raise AssertionError


def _check(path: Path, arrays: Mapping[str, Any]) -> dict[str, Any]:
    inputs = [[arrays[f"{name}_{number}"] for name in INPUTS] for number in range(2)]
    answers = run_onnx(path, inputs) if path.name == ONNX else run_pt2(path, inputs)
    wanted = [arrays[f"logits_{number}"] for number in range(2)]
    pairs = list(zip(answers, wanted, strict=True))
    return {
        "difference": max(float(np.abs(answer - logits).max()) for answer, logits in pairs),
        "close": all(np.allclose(answer, logits, rtol=TOLERANCE, atol=TOLERANCE) for answer, logits in pairs),
    }


def run_pt2(path: Path, inputs: Sequence[Sequence[Any]]) -> list[Any]:
    """The logits of the torch.export program at `path` for each pair of token ids and mask."""
    import torch

    program = torch.export.load(path).module()  # trusted: just written by the parent process
    with torch.no_grad():
        return [program(*map(torch.from_numpy, batch)).numpy() for batch in inputs]


def run_onnx(path: Path, inputs: Sequence[Sequence[Any]]) -> list[Any]:
    """The logits of the ONNX program at `path` for each pair of token ids and mask."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return [session.run(None, dict(zip(names, batch, strict=True)))[0] for batch in inputs]


def _reason(error: BaseException) -> str:
    """The exporter's error message as one line."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for exception in reversed(chain):
        if missing := re.search(r"No ONNX function found for [^.\n]*\.[\w.]+'?[^.\n]*", str(exception)):
            return missing[0].strip()
    lines = (line.strip() for line in str(chain[-1]).splitlines())
    return f"{type(chain[-1]).__name__}: {next(filter(None, lines), '')}"[:300]


def main(arguments: Sequence[str]) -> None:
    """Run `write FOLDER` or `check PROGRAM INPUTS`; the last line of standard output is the result as JSON."""
    if arguments[0] == "write":
        answer: dict[str, Any] = write_unchecked(Path(arguments[1]))
    else:
        with np.load(arguments[2], allow_pickle=False) as arrays:
            answer = _check(Path(arguments[1]), arrays)
    print(f"\n{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
