"""Efficient transformers under one training protocol (torch, safetensors)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxytune.models.exported import load_exported

__all__ = ["load_exported"]


def __getattr__(name: str) -> Any:
    # Imported lazily: torch takes a second to import, and few commands need it.
    if name == "load_exported":
        from proxytune.models.exported import load_exported

        return load_exported
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
