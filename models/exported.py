"""Load an export folder: verify its checksums, then build the classifier from model.json and its weights.

Only JSON and safetensors are read; nothing in the folder is unpickled or executed. model.pt2 and model.onnx are for other
programs and are never loaded here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from proxytune.models.classifier import Classifier
from proxytune.models.config import ModelConfig
from proxytune.models.errors import ConfigError, ExportError

FORMAT = 1
"""Version of the folder's format, increased when an older proxytune cannot read it correctly."""
SUMS, MODEL, WEIGHTS = "SHA256SUMS", "model.json", "weights.safetensors"
_LINE = re.compile(r"([0-9a-f]{64})  (\S[^\r\n]*)")


def load_exported(folder: Path | str) -> Classifier:
    """The exported classifier in eval mode, on the CPU. The files it is built from are verified first.

    Call it as `model(token_ids, mask)`: integers (b, n) and True at valid tokens, or (b, 2, n) for two documents.

    Raises:
        ExportError: not an export folder, damaged, or written by a newer proxytune.
    """
    folder = Path(folder)
    problems = changed_files(folder, (MODEL, WEIGHTS))
    if problems:
        raise ExportError(f"{folder} is damaged: {problems[0]}")
    return build_classifier(folder)


def build_classifier(folder: Path) -> Classifier:
    """As `load_exported`, for a folder whose checksums are already verified or not yet written.

    Raises:
        ExportError: model.json or the weights are invalid, or do not match.
    """
    config = model_config(read_model_file(folder))
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{folder / WEIGHTS}: {error}") from None
    with torch.device("meta"):  # allocates nothing, whatever the size of the model
        expected = {name: tensor.shape for name, tensor in Classifier(config).state_dict().items()}
    for name in sorted(expected.keys() | weights.keys()):
        wanted, found = expected.get(name), weights[name].shape if name in weights else None
        if wanted != found:
            sizes = [
                " x ".join(map(str, shape)) if shape is not None else "absent" for shape in (found, wanted)
            ]
            raise ExportError(f"{WEIGHTS}: {name} is {sizes[0]}, {MODEL} makes it {sizes[1]}")
    model = Classifier(config)
    model.load_state_dict(weights)
    return model.eval()


def model_file(config: ModelConfig) -> dict[str, Any]:
    """The content of model.json: the folder's format and every field of the model's configuration."""
    return {"format": FORMAT, "model": asdict(config)}


def read_model_file(folder: Path) -> dict[str, Any]:
    """Read model.json, if this version supports the folder's format.

    Raises:
        ExportError: damaged, or of a newer format.
    """
    path = folder / MODEL
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        number = value["format"]
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ExportError(f"{path} is damaged: it must be JSON with the folder's format") from None
    if type(number) is not int or number < 1:
        raise ExportError(f"{path}: format {number!r} is refused: it must be a whole number from 1")
    if number > FORMAT:
        raise ExportError(f"{folder} has format {number}, this proxytune reads up to {FORMAT}; upgrade it")
    return dict(value)


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration from the values of `read_model_file`.

    Raises:
        ExportError: an unknown or missing field, or a value that cannot be built.
    """
    try:
        given = dict(values["model"])
        if given.get("injection") == "segment":  # 0.1 always used segments of the padded length
            given.setdefault("injection_length", "padded")
        unknown = given.keys() - {field.name for field in fields(ModelConfig)}
        if unknown:
            raise ExportError(f"{MODEL}: model.{min(unknown)} is not a field of ModelConfig")
        return ModelConfig(**given)
    except ExportError:
        raise
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{MODEL}: {error}") from None


def read_sums(folder: Path) -> dict[str, str]:
    """SHA256SUMS, a file for `sha256sum -c`, as {file: sha256}.

    Raises:
        ExportError: the file is missing or damaged.
    """
    path = folder / SUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        older = (
            " (an older proxytune wrote none: export it again)" if (folder / "config.yaml").exists() else ""
        )
        raise ExportError(f"{folder} is no export folder: {SUMS} is missing{older}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: {error}") from None
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        name = PurePosixPath(match[2]) if match else None
        if match is None or name is None or name.is_absolute() or ".." in name.parts or match[2] in sums:
            raise ExportError(f"{path} is damaged: line {number} is no sha256 and file of its own")
        sums[match[2]] = match[1]
    return sums


def changed_files(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """One line for each file (default: all in SHA256SUMS) that differs from the export.

    Raises:
        ExportError: SHA256SUMS is missing or damaged.
    """
    sums = read_sums(folder)
    problems = []
    for name in sums if names is None else names:
        path = folder / name
        if name not in sums:
            problems.append(f"{name} is not in {SUMS}")
        elif path.is_symlink() or not path.is_file():
            problems.append(f"{name} is missing")
        elif (actual := file_sha256(path)) != sums[name]:
            problems.append(f"{name} has sha256 {actual[:12]}..., {SUMS} says {sums[name][:12]}...")
    return problems


def file_sha256(path: Path) -> str:
    """sha256 of the file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
