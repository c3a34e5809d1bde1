"""The study files that come with the package."""

from pathlib import Path


def shipped_studies() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.rglob("*.yaml"))}
