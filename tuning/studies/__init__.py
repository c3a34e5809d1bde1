"""The study files that come with the package, and the curve bank: the journals of finished studies (journal/bank.py)."""

from pathlib import Path

BANK = Path(__file__).parent / "bank"
BANKED = ".jsonl.xz"
"""The end of the name of a file of the bank."""


def shipped_studies() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.rglob("*.yaml"))}


def banked_studies(folder: Path = BANK) -> dict[str, Path]:
    """The files of the curve bank, or of another folder of such files, by the name of the study."""
    return {path.name.removesuffix(BANKED): path for path in sorted(folder.glob(f"*{BANKED}"))}
