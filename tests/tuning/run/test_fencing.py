"""A driver that was suspended for longer than its lease writes neither trials nor journal events after it resumes."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from proxytune.tuning.errors import HeldError
from proxytune.tuning.journal.events import Noted
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.run.begin import hold_study
from proxytune.tuning.run.journal import FencedOutbox
from proxytune.tuning.store import lease as module
from proxytune.tuning.store.study import open_study

DRIVE = """
import sys, time
from proxytune.tuning.errors import HeldError
from proxytune.tuning.journal.events import Noted
from proxytune.tuning.run.begin import hold_study
from proxytune.tuning.run.journal import FencedOutbox
from proxytune.tuning.spec.study_spec import StudySpec
with hold_study(StudySpec.model_validate_json(sys.argv[1])) as held:
    outbox = FencedOutbox(held.study.folder / "outbox", None, held.lease)
    number, rejected = 0, set()
    while len(rejected) < 2:
        number += 1
        for name, write in (
            ("journal", lambda: outbox.append(Noted(text=str(number)))),
            ("trials", lambda: held.study.optuna.set_user_attr("count", number)),
        ):
            try:
                write()
            except HeldError:
                rejected.add(name)
        if number == 3:
            print("driving", flush=True)
            sys.stdin.readline()  # suspended here, outside of transactions: it would keep the lock of sqlite
        time.sleep(0.05)
    print("rejected", *sorted(rejected), flush=True)
"""


def noted(study: Any) -> list[str]:
    return [event.text for event in read_events(study.folder / "outbox").events if isinstance(event, Noted)]


@pytest.mark.timeout(600)
def test_driver_suspended_past_its_lease_is_replaced_and_writes_nothing(make_spec, monkeypatch) -> None:
    spec = make_spec()
    suspended = subprocess.Popen(
        [sys.executable, "-P", "-c", DRIVE, spec.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert suspended.stdin is not None
        assert suspended.stdout is not None
        assert suspended.stdout.readline() == "driving\n"
        os.kill(suspended.pid, signal.SIGSTOP)
        monkeypatch.setattr(module, "LEASE_SECONDS", 0.5)  # of the new driver, which waits as long
        time.sleep(1.1)  # the database's clock has whole seconds: the last renewal is now at least 1 s old
        with hold_study(spec) as held:
            outbox = FencedOutbox(held.study.folder / "outbox", None, held.lease)
            outbox.append(Noted(text="new driver"))
            written = noted(held.study), held.study.optuna.user_attrs["count"]
            os.kill(suspended.pid, signal.SIGCONT)
            suspended.stdin.write("\n")
            suspended.stdin.flush()
            assert suspended.stdout.readline() == "rejected journal trials\n"
            suspended.wait(120)
            outbox.append(Noted(text="still driving"))
            held.lease.check()
            study = open_study(spec.name, spec.storage)
            assert noted(study) == [*written[0], "still driving"]
            assert study.optuna.user_attrs["count"] == written[1]
            outbox.close()
    finally:
        suspended.kill()
        suspended.communicate()


def test_older_driver_does_not_overwrite_the_epoch_of_a_newer_driver(make_spec, monkeypatch) -> None:
    with hold_study(make_spec()) as older:
        older.lease.epoch -= 1  # as if another driver had acquired the lease in the meantime
        with pytest.raises(HeldError, match="taken over by another driver"):
            FencedOutbox(older.study.folder / "outbox", None, older.lease)
        older.lease.epoch += 1
        assert (older.study.folder / "outbox" / "epoch").read_text() == ""
