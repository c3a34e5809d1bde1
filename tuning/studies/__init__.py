"""The study files that come with the package, and the curve bank: the journals of finished studies (journal/bank.py)."""

from pathlib import Path

BANK = Path(__file__).parent / "bank"


def shipped_studies() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.rglob("*.yaml"))}


def banked_studies() -> dict[str, Path]:
    """The files of the curve bank, by the name of the study."""
    return {path.name.partition(".jsonl")[0]: path for path in sorted(BANK.glob("*.jsonl.xz"))}
