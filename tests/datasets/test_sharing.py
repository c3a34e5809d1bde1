"""Processes that open the same prepared task share one copy of it, and opening costs milliseconds."""

import subprocess
import sys
import time

import numpy as np
import pytest

from proxytune.datasets import open_prepared, prepare
from proxytune.datasets.sources import Source
from proxytune.datasets.task import Rows
from proxytune.datasets.text import Text

NUM_PROCESSES = 4
MEGABYTES = 64

# Touches every page of the train split, then waits; the split's pages are those of the mapping of its file.
READER = """
import re, sys
from proxytune.datasets import open_prepared
prepared = open_prepared(sys.argv[1])
total = sum(int(document.sum()) for row in range(len(prepared.train)) for document in prepared.train[row][0])
def pss_kib(path):
    with open("/proc/self/smaps") as maps:
        inside, kib = False, 0
        for line in maps:
            if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
                inside = path in line
            elif line.startswith("Pss:") and inside:
                kib += int(line.split()[1])
    return kib
print("read", total, flush=True)
sys.stdin.readline()
with open("/proc/self/smaps_rollup") as rollup:
    whole = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
print(pss_kib("train.arrow"), whole, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A text task of about 64 MB whose rows need no parsing: drawn bytes."""

    class Drawn(Text):
        generator = "drawn bytes, for this test"

        def read(self, source: Source, mapper):
            random = np.random.default_rng(0)
            for split, num_blocks in (("train", MEGABYTES // 4), ("validation", 1), ("test", 1)):
                for _ in range(num_blocks):
                    lengths = np.full(512, 4000)
                    yield (
                        split,
                        Rows(
                            (random.integers(1, 257, 512 * 4000).astype(np.uint16),),
                            (lengths,),
                            random.integers(0, 2, 512),
                        ),
                    )

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(prepare.__globals__["TASKS"], "text", Drawn)
        prepared = prepare("text", cache=tmp_path_factory.mktemp("cache"))
    # No open mapping is kept here: this process would count as a sharer.
    return prepared.folder, prepared.train.record.bytes


def measure(folder, num_processes: int) -> tuple[list[int], list[int]]:
    """KiB of PSS in the mapped file, and in all, of each process while all hold every page."""
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(num_processes)
    ]
    try:
        totals = {reader.stdout.readline() for reader in readers}
        assert len(totals) == 1
        for reader in readers:
            reader.stdin.write("\n")
            reader.stdin.flush()
        figures = [tuple(map(int, reader.stdout.readline().split())) for reader in readers]
    finally:
        for reader in readers:
            reader.communicate("\n")
    mapped, everything = zip(*figures, strict=True)
    return list(mapped), list(everything)


def test_four_processes_hold_one_copy(large, record_property):
    folder, num_bytes = large
    copy_kib = num_bytes / 1024
    one, _ = measure(folder, 1)
    four, everything = measure(folder, NUM_PROCESSES)
    record_property("pss_kib", {"copy": copy_kib, "one": one, "four": four, "everything": everything})
    print(f"copy {copy_kib:.0f} KiB; mapped PSS of one {one}, of four {four}; whole processes {everything}")
    assert one[0] > 0.9 * copy_kib  # every page was touched
    assert sum(four) - sum(one) < 0.1 * copy_kib


def test_opening_does_not_depend_on_size(large, tmp_path, record_property):
    """Measured on a 64 MB and a tiny split: opening reads the footer, not the data."""
    small = prepare("listops-mini", cache=tmp_path, train_examples=10, mapper=map)

    def bytes_read(folder) -> int:
        def counter() -> int:
            with open("/proc/self/io") as stream:
                return int(next(line for line in stream if line.startswith("rchar")).split()[1])

        before = counter()
        open_prepared(folder)
        return counter() - before

    folder, num_bytes = large
    assert bytes_read(folder) < bytes_read(small.folder) + 4096
    started = time.perf_counter()
    open_prepared(folder)
    milliseconds = 1000 * (time.perf_counter() - started)
    record_property("open_milliseconds", milliseconds)
    print(f"opened {num_bytes / 1e6:.0f} MB in {milliseconds:.1f} ms")
