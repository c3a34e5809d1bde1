"""Sums over every file of a folder, and of every field, so that a change is not only found but named.

SHA256SUMS is for everybody (`sha256sum -c`). fields.json holds the first digits of the sha256 of each field of the files
that have fields; it only serves to say which one differs where SHA256SUMS finds a file changed.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from proxytune.models.exported import SUMS, file_sha256
from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.yaml_file import parse_yaml

FIELDS = "fields.json"
_DIGITS = 8


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every file below the folder, as the last one."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in names if name != SUMS]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def write_fields(folder: Path) -> None:
    """Write fields.json over the files of the folder."""
    digests = {
        path.name: tree for path in sorted(folder.iterdir()) if (tree := field_digests(path)) is not None
    }
    (folder / FIELDS).write_text(json.dumps(digests, separators=(",", ":")) + "\n", encoding="utf-8")


def field_digests(path: Path) -> Any:
    """The digests of a file's fields, in the shape of its values; None for a file without fields.

    JSON and YAML have theirs, safetensors their tensors, a text its lines.

    Raises:
        ValueError: the file cannot be read as what its name says.
        OSError: it cannot be read at all.
    """
    match path.suffix:
        case ".json":
            return _digests(json.loads(path.read_text(encoding="utf-8")))
        case ".yaml":
            try:
                return _digests(parse_yaml(path.read_text(encoding="utf-8"), where=path.name))
            except InputError as error:
                raise ValueError(str(error)) from None
        case ".safetensors":
            return _tensor_digests(path)
        case ".md":
            return _digests(path.read_text(encoding="utf-8").splitlines())
    return None


def changed_fields(folder: Path, name: str) -> list[str]:
    """The fields of a file that are not what fields.json says, as paths such as `trials[3].values.val_accuracy`.

    Empty if they cannot be told: the file or fields.json is unreadable, or the file has no fields.
    """
    try:
        stored = json.loads((folder / FIELDS).read_text(encoding="utf-8"))[name]
        actual = field_digests(folder / name)
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [path or "the whole file" for path, _, _ in differing(stored, actual)]


ABSENT = "absent"


def differing(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The paths at which two trees of plain values differ, with both values: one for each leaf or missing branch."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            inner = f"{path}.{key}" if path else str(key)
            yield from differing(one.get(key, ABSENT), other.get(key, ABSENT), inner)
    elif isinstance(one, list) and isinstance(other, list):
        for index in range(max(len(one), len(other))):
            pair = [tree[index] if index < len(tree) else ABSENT for tree in (one, other)]
            yield from differing(pair[0], pair[1], f"{path}[{index}]")
    elif type(one) is not type(other) or one != other:
        yield path, one, other


def _digests(value: Any) -> Any:
    if isinstance(value, dict) and value:
        return {key: _digests(inner) for key, inner in value.items()}
    if isinstance(value, list) and value:
        return [_digests(inner) for inner in value]
    return _digest(json.dumps(value).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _tensor_digests(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError

    try:
        with safe_open(path, framework="numpy") as file:
            return {
                name: _digest(f"{tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
                for name in file.keys()  # noqa: SIM118  # not a dict
                for tensor in [file.get_tensor(name)]
            }
    except SafetensorError as error:
        raise ValueError(str(error)) from None
