"""The journal of a study's tracking events: every event is stored exactly once, also after crashes."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.tuning.errors import HeldError
from proxytune.tuning.journal.events import (
    Event,
    Reported,
    StudyStarted,
    TrialEnded,
    TrialStarted,
    encode,
)
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.reading import JOURNAL, journal_id, read_events
from proxytune.tuning.spec.outcome import Outcome

SCALARS = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text()


def trial(number: int, attempt: int = 1) -> Event:
    return TrialStarted(time_ms=1, trial=number, params={}, config={}, attempt=attempt)


def report(number: int, step: int, **metrics: float) -> Event:
    return Reported(time_ms=2, trial=number, step=step, metrics=metrics)


def end(number: int, outcome: str, step: int = 0, **metrics: float) -> Event:
    return TrialEnded(time_ms=3, trial=number, outcome=Outcome(outcome), step=step, metrics=metrics)


def written(folder: Path) -> list[Any]:
    """The journal's events without the header."""
    return read_events(folder).events[1:]


def test_journal_contains_appended_events_in_order(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    events = [trial(0), report(0, 1, loss=0.5), end(0, "complete", 2, loss=0.25)]
    assert all(outbox.append(event) for event in events)
    outbox.close()
    assert written(tmp_path) == events


def test_journal_keeps_its_id_when_reopened(tmp_path: Path) -> None:
    ids = set()
    for _ in range(2):
        Outbox(tmp_path).close()
        ids.add(journal_id(tmp_path))
    assert len(ids) == 1


@pytest.mark.parametrize("reopened", [False, True])
def test_repeated_and_late_events_are_rejected(tmp_path: Path, reopened: bool) -> None:
    outbox = Outbox(tmp_path)
    for event in (trial(0), report(0, 1, loss=1.0), end(0, "complete", 2), trial(1), report(1, 1, loss=2.0)):
        assert outbox.append(event)
    assert outbox.append(end(1, "interrupted", 1))
    if reopened:
        outbox.close()
        outbox = Outbox(tmp_path)
    before = written(tmp_path)
    assert not outbox.append(report(1, 1, loss=2.0))
    assert not outbox.append(end(1, "interrupted", 1)), "trial 1 is not running"
    for event in (trial(0, 2), report(0, 5, loss=0.0), end(0, "failed", 2), end(0, "interrupted", 2)):
        assert not outbox.append(event), "trial 0 is complete"
    outbox.close()
    assert written(tmp_path) == before


def test_interrupted_trial_can_resume(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    later = [trial(0), end(0, "interrupted"), trial(0, 2), report(0, 1, loss=1.0), end(0, "complete", 2)]
    assert all(outbox.append(event) for event in later)
    outbox.close()


def test_end_event_omits_metrics_reported_at_its_step(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append(trial(0))
    outbox.append(report(0, 5, loss=1.0, accuracy=0.5))
    outbox.append(end(0, "complete", 5, loss=1.0, accuracy=0.5, parameters=7))
    outbox.close()
    assert written(tmp_path)[-1].metrics == {"parameters": 7}


def test_opening_marks_trials_of_a_killed_driver_as_interrupted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for event in (
        StudyStarted(time_ms=1, study="s", spec={}),
        *(trial(0), report(0, 4, loss=1.0), trial(1), end(1, "complete", 9), trial(2), end(2, "interrupted")),
    ):
        outbox.append(event)
    outbox.close()
    Outbox(tmp_path).close()
    last = written(tmp_path)[-2:]
    assert [(event.kind, getattr(event, "trial", None), getattr(event, "step", None)) for event in last] == [
        ("end", 0, 4),
        ("study_end", None, None),
    ]
    assert last[0].outcome == last[1].status == "interrupted"
    Outbox(tmp_path).close()
    assert written(tmp_path)[-2:] == last, "reopening changes nothing"


@pytest.mark.parametrize("cut", [1, 2, 17])
def test_torn_line_is_truncated_and_can_be_written_again(tmp_path: Path, cut: int) -> None:
    outbox = Outbox(tmp_path)
    outbox.append(trial(0))
    outbox.append(report(0, 1, loss=1.0))
    outbox.close()
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert [event.kind for event in written(tmp_path)] == ["trial"], "readers ignore a torn line"
    outbox = Outbox(tmp_path)
    assert outbox.append(trial(0, 2))
    assert outbox.append(report(0, 1, loss=1.0))
    outbox.close()
    assert [event.kind for event in written(tmp_path)] == ["trial", "end", "trial", "report"]


def test_damaged_line_does_not_hide_other_lines(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in range(3):
        outbox.append(trial(number))
        outbox.append(end(number, "complete"))
    outbox.close()
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[3] = b"\0" * (len(lines[3]) - 1) + b"\n"
    (tmp_path / JOURNAL).write_bytes(b"".join(lines))
    assert [event.trial for event in written(tmp_path)] == [0, 0, 1, 2, 2]


def test_second_writer_is_rejected(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    script = "import sys; from pathlib import Path; from proxytune.tuning.journal.outbox import Outbox; Outbox(Path(sys.argv[1]))"
    second = subprocess.run(
        [sys.executable, "-Pc", script, tmp_path], capture_output=True, text=True, check=False
    )
    assert second.returncode != 0
    assert HeldError.__name__ in second.stderr
    outbox.close()


def test_full_disk_raises_and_leaves_no_partial_line(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append(trial(0))
    size = (tmp_path / JOURNAL).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            outbox.append(report(0, 1, loss=1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / JOURNAL).stat().st_size == size
    assert outbox.append(report(0, 1, loss=1.0)), "the failed report can be appended again"
    outbox.close()
    assert written(tmp_path)[-1] == report(0, 1, loss=1.0)


@given(
    st.dictionaries(st.text(min_size=1), st.floats(), max_size=5),
    st.dictionaries(st.text(), SCALARS, max_size=5),
)
def test_events_round_trip_exactly(
    tmp_path_factory: pytest.TempPathFactory, metrics: dict[str, float], params: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("outbox")
    outbox = Outbox(folder)
    outbox.append(TrialStarted(trial=0, params=params))
    outbox.append(report(0, 1, **metrics))
    outbox.close()
    start, back = written(folder)
    assert repr(back.metrics) == repr(metrics), "repr distinguishes -0.0 from 0.0, and nan equals nan"
    assert repr(start.params) == repr(params)


def test_portions_contain_complete_events_and_cover_the_journal(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    for number in range(50):
        outbox.append(trial(number))
    outbox.close()
    events: list[Event] = []
    offset = 0
    while (portion := read_events(tmp_path, offset, max_bytes=100)).offset != offset:
        offset = portion.offset
        assert len(portion.records) <= 2
        events += portion.events
    assert events == read_events(tmp_path).events


def test_opening_a_long_journal_is_cheap(tmp_path: Path) -> None:
    """20,000 events. The bound is on CPU time, ten times the measured 0.24 s on one core."""
    Outbox(tmp_path).close()
    metrics = {f"metric_{index}": index / 7 for index in range(10)}
    with (tmp_path / JOURNAL).open("ab") as journal:
        for number in range(400):
            reports = (report(number, step, **metrics) for step in range(48))
            journal.writelines(map(encode, (trial(number), *reports, end(number, "complete", 48))))
    before = time.process_time()
    outbox = Outbox(tmp_path)
    assert time.process_time() - before < 2.4
    assert (len(outbox.trials), outbox.problems) == (400, [])
    outbox.close()


def test_sigkill_loses_no_appended_event(tmp_path: Path) -> None:
    """A writer prints the number of each appended event; after SIGKILL the journal contains exactly these events."""
    script = """
import itertools, sys
from pathlib import Path
from proxytune.tuning.journal.events import TrialStarted
from proxytune.tuning.journal.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
first = int(sys.argv[2])
for number in itertools.count(first):
    assert outbox.append(TrialStarted(trial=number, params={"text": "x" * (number % 9000)}))
    print(number, flush=True)
"""
    last = -1
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-Pc", script, str(tmp_path), str(last + 1)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(40):
            last = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        last = max([last, *map(int, writer.stdout.read().split())])
        writer.wait()
        writer.stdout.close()
        numbers = [event.trial for event in written(tmp_path) if event.kind == "trial"]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) - 1 in (last, last + 1), "the last event may be appended but not printed"
        last = numbers[-1]
