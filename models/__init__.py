"""Efficient transformers under one training protocol (torch only)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxytune.models.exported import load_exported

__all__ = ["load_exported"]


def __getattr__(name: str) -> Any:
    # torch takes a second to import, which the command line needs for hardly any verb.
    if name == "load_exported":
        from proxytune.models.exported import load_exported

        return load_exported
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
