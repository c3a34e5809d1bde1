"""Entry point of `python tests/benchmarks`; appends the repository to the import path."""

import sys
from pathlib import Path

sys.path[0:1] = []  # this folder, since its modules are imported as tests.benchmarks.*
sys.path.append(str(Path(__file__).parents[2]))

from proxytune.tuning.errors import ProxytuneError  # noqa: E402
from tests.benchmarks.cli import bench  # noqa: E402

try:
    bench(prog_name="python tests/benchmarks")
except ProxytuneError as error:
    sys.exit(str(error))
