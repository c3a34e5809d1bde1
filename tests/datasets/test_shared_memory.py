"""Processes that open the same prepared task share one copy in memory, and opening does not read the data."""

import subprocess
import sys

import numpy as np
import pytest

from proxytune.datasets import open_prepared, prepare
from proxytune.datasets.prepare import TASKS
from proxytune.datasets.sources import Source
from proxytune.datasets.task import Rows
from proxytune.datasets.text import Text

NUM_PROCESSES = 4
NUM_BLOCKS = 4  # of 4 MB in the train split

# Reads every page of the train split, waits for the other processes, then prints its PSS in KiB: in the mapping of the
# split's file, and in total. PSS divides a shared page by the number of its processes.
READER = """
import re, sys
from proxytune.datasets import open_prepared
prepared = open_prepared(sys.argv[1])
total = sum(int(document.sum()) for row in range(len(prepared.train)) for document in prepared.train[row][0])
def mapped_pss(path):
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
    total_pss = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
print(mapped_pss("train.arrow"), total_pss, flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The folder of a prepared text task of random bytes, and the size of its train split in bytes."""

    class RandomText(Text):
        generator = "random bytes, for this test"

        def read(self, source: Source, mapper):
            random = np.random.default_rng(0)
            for split, num_blocks in (("train", NUM_BLOCKS), ("validation", 1), ("test", 1)):
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
        patched.setitem(TASKS, "text", RandomText)
        prepared = prepare("text", cache=tmp_path_factory.mktemp("cache"))
    # This process must not keep the file mapped: it would be counted as one of the sharing processes.
    return prepared.folder, prepared.train.record.bytes


def measure(folder, num_processes: int) -> tuple[list[int], list[int]]:
    """PSS in KiB of each process, in the mapped file and in total, while all processes have read every page."""
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
    mapped, total = zip(*figures, strict=True)
    return list(mapped), list(total)


def test_four_processes_share_one_copy(large, record_property):
    folder, num_bytes = large
    copy_kib = num_bytes / 1024
    mapped, total = measure(folder, NUM_PROCESSES)
    record_property("pss_kib", {"copy": copy_kib, "mapped": mapped, "total": total})
    assert 0.9 * copy_kib < sum(mapped) < 1.1 * copy_kib  # four copies would be 4 * copy_kib
    assert max(mapped) < 0.3 * copy_kib


def test_open_reads_the_same_bytes_at_any_size(large, tmp_path):
    """Opening a split of 17 MB or of a few KB reads the footer, not the data."""
    small = prepare("listops-mini", cache=tmp_path, train_examples=10, mapper=map)

    def bytes_read(folder) -> int:
        def counter() -> int:
            with open("/proc/self/io") as stream:
                return int(next(line for line in stream if line.startswith("rchar")).split()[1])

        before = counter()
        open_prepared(folder)
        return counter() - before

    folder, _ = large
    assert bytes_read(folder) < bytes_read(small.folder) + 4096
