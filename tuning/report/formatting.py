"""Values and nested mappings as short text."""

from collections.abc import Mapping
from typing import Any


def short(value: Any) -> str:
    """A float with two significant digits; any other value unchanged."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.2g}".rstrip(".")
    return str(value)


def flat(tree: Mapping[str, Any], depth: int, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys, at most `depth` deep."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and depth > 1:
            leaves |= flat(value, depth - 1, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
