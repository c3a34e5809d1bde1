"""The installed package as folders that Ray puts on a node's import path, with the same files as the wheel.

The wheel itself is not used: for a .whl in `py_modules` Ray runs `pip install --target`, which downloads every
dependency (including torch) on every node. The dependencies come from the image; this package comes from the submitter,
regardless of the version in the image.
"""

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

ROOMS = ("datasets", "models", "tuning")


def package_folders(parent: Path) -> list[str]:
    """Copy the package and its metadata into `parent`; return the entries of `py_modules`."""
    for room in ROOMS:
        spec = importlib.util.find_spec(f"proxytune.{room}")
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).parent
        shutil.copytree(source, parent / "proxytune" / room, ignore=shutil.ignore_patterns("__pycache__"))
    version = importlib.metadata.version("proxytune")
    metadata = parent / f"proxytune-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: proxytune\nVersion: {version}\n")
    return [str(parent / "proxytune"), str(metadata)]
