"""Compares two trees of JSON values; differences are paths such as `trials[3].values.val_accuracy`."""

from collections.abc import Iterator
from typing import Any

ABSENT = "absent"


def differing(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The paths at which the trees differ, with both values; one path per leaf or missing branch."""
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


def compared(name: str, actual: Any, wanted: Any, source: str, path: str = "") -> Iterator[str]:
    """A message for each difference between `actual` in file `name` and `wanted` in `source`."""
    for field, mine, theirs in differing(actual, wanted, path):
        yield f"{name}: {field} is {_short(mine)}, {source} has {_short(theirs)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
