"""A driver that was suspended longer than its lease writes neither trials nor the journal when it wakes."""

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
    number, refused = 0, set()
    while len(refused) < 2:
        number += 1
        for name, write in (
            ("journal", lambda: outbox.append(Noted(text=str(number)))),
            ("trials", lambda: held.study.optuna.set_user_attr("count", number)),
        ):
            try:
                write()
            except HeldError:
                refused.add(name)
        if number == 3:
            print("driving", flush=True)
            time.sleep(5)  # suspended here, in no transaction: sqlite's lock would stay with it
        time.sleep(0.05)
    print("refused", *sorted(refused), flush=True)
"""


def noted(study: Any) -> list[str]:
    return [event.text for event in read_events(study.folder / "outbox").events if isinstance(event, Noted)]


@pytest.mark.timeout(600)
def test_a_driver_suspended_longer_than_its_lease_is_replaced_and_writes_nothing_more(
    make_spec, monkeypatch
) -> None:
    spec = make_spec()
    suspended = subprocess.Popen(
        [sys.executable, "-P", "-c", DRIVE, spec.model_dump_json()], stdout=subprocess.PIPE, text=True
    )
    try:
        assert suspended.stdout is not None
        assert suspended.stdout.readline() == "driving\n"
        os.kill(suspended.pid, signal.SIGSTOP)
        monkeypatch.setattr(module, "LEASE_SECONDS", 2.0)  # by which the new driver waits
        time.sleep(module.LEASE_SECONDS + 1)  # its last renewal is older than that
        with hold_study(spec) as held:
            outbox = FencedOutbox(held.study.folder / "outbox", None, held.lease)
            outbox.append(Noted(text="new driver"))
            written = noted(held.study), held.study.optuna.user_attrs["count"]
            os.kill(suspended.pid, signal.SIGCONT)
            assert suspended.stdout.readline() == "refused journal trials\n"
            suspended.wait(120)
            outbox.append(Noted(text="still here"))
            held.lease.check()
            study = open_study(spec.name, spec.storage)
            assert noted(study) == [*written[0], "still here"]
            assert study.optuna.user_attrs["count"] == written[1]
            outbox.close()
    finally:
        suspended.kill()
        suspended.communicate()


def test_an_older_driver_does_not_put_its_epoch_over_a_newer_ones(make_spec, monkeypatch) -> None:
    with hold_study(make_spec()) as older:
        older.lease.epoch -= 1  # as if another driver had taken the study meanwhile
        with pytest.raises(HeldError, match="taken over by another driver"):
            FencedOutbox(older.study.folder / "outbox", None, older.lease)
        older.lease.epoch += 1
        assert (older.study.folder / "outbox" / "epoch").read_text() == ""
