"""Starts of a study: nothing is written before the lease is held, and requests posted meanwhile are obeyed."""

import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from proxytune.tuning.errors import HeldError, InputError
from proxytune.tuning.journal.recovery import open_journal, recover
from proxytune.tuning.run.begin import begin_study, hold_study
from proxytune.tuning.run.look import check_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.store.attributes import END
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.store.request import Kind
from proxytune.tuning.store.steering import announce_start, extend, is_stopping, pause, request_stop
from proxytune.tuning.store.stored_study import database_url
from proxytune.tuning.store.study import open_study

ENQUEUED = [{"model.num_proxies": n, "model.dropout": 0.1} for n in (2, 4, 8)]


@pytest.fixture(autouse=True)
def _database() -> None:
    """The layout of a database is tested here."""


def everything(spec: Any) -> dict[str, list[Any]]:
    """All rows of the study's database, but for the lease's renewals."""
    engine = sa.create_engine(database_url(spec.folder, spec.database))
    try:
        with engine.connect() as connection:
            tables = sorted(set(sa.inspect(engine).get_table_names()) - {"proxytune_driver"})
            return {
                name: [tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {name}"))]
                for name in tables
            }
    finally:
        engine.dispose()


def test_a_refused_run_leaves_no_trace(make_spec) -> None:
    with hold_study(make_spec()) as held:
        pause(held.study, on=True, who="alice")
        request_stop(held.study, now=False, who="alice")
        before = everything(make_spec())
        with pytest.raises(HeldError):
            begin_study(make_spec("search.trials=99", "resources.max_failures=1"))
        assert everything(make_spec()) == before
        assert [request.kind for request in held.study.requests.pending()] == [Kind.PAUSE, Kind.STOP]


START = """
import json, sys, time
from pathlib import Path
from proxytune.tuning.errors import HeldError
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.spec.study_spec import parse_study
specs = [parse_study(values, "study") for values in json.load(sys.stdin)]
print("ready", flush=True)
for number, spec in enumerate(specs):
    gate = spec.storage.parent / f"gate-{number}"
    while not gate.exists():
        time.sleep(0.001)
    try:
        begin_study(spec)
        print("begun", flush=True)
    except HeldError:
        print("held", flush=True)
"""


@pytest.mark.timeout(600)
def test_two_first_starts_at_once_enqueue_every_configuration_once(make_spec, tmp_path: Path) -> None:
    rounds = 8
    specs = [make_spec(f"name=round-{n}", f"search.enqueue={json.dumps(ENQUEUED)}") for n in range(rounds)]
    given = json.dumps([spec.model_dump(mode="json") for spec in specs])
    starters = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write(given)
        starter.stdin.close()
    for starter in starters:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
    for number in range(rounds):
        (tmp_path / f"gate-{number}").touch()
        answers = {starter.stdout.readline().strip() for starter in starters if starter.stdout}
        assert answers <= {"begun", "held"}
        assert "begun" in answers
        study = open_study(specs[number].name, specs[number].storage)
        fixed = [trial.system_attrs["fixed_params"] for trial in study.trials()]
        assert fixed == ENQUEUED
    for starter in starters:
        assert starter.wait() == 0
        assert starter.stdout is not None
        starter.stdout.close()


def test_ten_creations_of_one_name_give_one_study_and_no_raw_error(make_spec) -> None:
    def create(_: int) -> str:
        try:
            begin_study(make_spec()).storage.engine.dispose()
        except HeldError as error:
            return f"refused: {error}"
        return "begun"

    with ThreadPoolExecutor(10) as pool:
        answers = Counter(answer.partition(":")[0] for answer in pool.map(create, range(10)))
    assert set(answers) <= {"begun", "refused"}
    assert answers["begun"] >= 1
    study = open_study("small", make_spec().storage)
    assert len(study.trials()) == len(make_spec().search.enqueue)


def test_a_creation_that_was_killed_is_made_again_and_a_strangers_study_is_left_alone(make_spec) -> None:
    spec = make_spec(f"search.enqueue={json.dumps(ENQUEUED)}")
    spec.folder.mkdir(parents=True)
    storage = open_storage(database_url(spec.folder, None), create=True)
    half = optuna.create_study(study_name="small", storage=storage)
    half.enqueue_trial({"theirs": 1})
    with pytest.raises(InputError, match="study small was not created by proxytune"):
        begin_study(spec)
    half.set_user_attr("id", "f" * 32)  # what our creation does first
    study = begin_study(spec)
    assert [trial.system_attrs["fixed_params"] for trial in study.trials()] == ENQUEUED


def controller_of(spec: Any, study: Any) -> StudyController:
    from proxytune.tuning.journal.outbox import Outbox

    controller = StudyController(spec, study.optuna, study.storage, Outbox(spec.folder / "outbox"))
    controller.reconcile()
    controller.poll()
    return controller


def test_a_stop_posted_while_the_driver_starts_is_obeyed_and_an_older_one_is_not(make_spec) -> None:
    study = begin_study(make_spec())
    request_stop(study, now=True, who="bob")
    time.sleep(2.1)  # the database's clock has whole seconds
    with hold_study(make_spec(), age=0.5) as held:
        assert held.notes == ("stop by bob was requested before this start",)
        assert not is_stopping(study)
    request_stop(study, now=False, who="alice")
    pause(study, on=True, who="alice")
    with hold_study(make_spec(), age=60) as held:
        controller = controller_of(make_spec(), held.study)
        assert controller.steering.stopping == "alice asked for it"
        assert controller.steering.paused_by == "alice"
        assert controller.next_trial() is None
        assert is_stopping(study)
        assert study.requests.pending() == [], "handled once, with the driver's epoch"


def test_a_stop_after_an_announced_start_is_obeyed_however_late_the_driver_comes(make_spec) -> None:
    study = begin_study(make_spec())
    request_stop(study, now=False, who="too early")
    announce_start(study, "service")
    assert not is_stopping(study)
    request_stop(study, now=True, who="alice")
    assert is_stopping(study)
    time.sleep(1.1)
    with hold_study(make_spec(), age=0) as held:
        assert controller_of(make_spec(), held.study).steering.stopping == "alice asked for it"


def test_an_extension_without_a_driver_holds_at_once_and_at_the_next_start(make_spec) -> None:
    study = begin_study(make_spec())
    extend(study, 40)
    assert study.budget == 40
    extend(study, 7)
    assert open_study("small", make_spec().storage).budget == 7
    assert begin_study(make_spec()).budget == 7
    assert study.requests.pending() == []


def test_what_of_a_changed_file_has_no_effect_is_told_in_one_line(make_spec) -> None:
    begin_study(make_spec("search.trials=9"))
    changed = make_spec("search.trials=3", f"search.enqueue={json.dumps(ENQUEUED)}")
    lines = [
        "search.trials: lowering it to 3 has no effect, study small may take 9; extend sets another number",
        "search.enqueue: it changed, and only a new study follows it; add configurations to study small by enqueue",
    ]
    assert check_study(changed)[1:] == lines
    with hold_study(changed) as held:
        assert list(held.notes) == lines
    with hold_study(changed) as held:
        assert held.notes == (), "told once"
    assert begin_study(make_spec("search.trials=12", f"search.enqueue={json.dumps(ENQUEUED)}")).budget == 12


def resume(spec: Any) -> None:
    """As a driver does, up to its next trial."""
    with hold_study(spec) as held:
        outbox = open_journal(held.study)
        recover(held.study, outbox)
        controller = StudyController(spec, held.study.optuna, held.study.storage, outbox)
        controller.reconcile()
        assert controller.next_trial() is not None
        controller.requeue_live()
        outbox.close()
        held.study.storage.engine.dispose()


def statements_of_a_resume(spec: Any) -> list[str]:
    """What it asks the database, but for the lease, which is renewed by the clock."""
    statements: list[str] = []

    def note(*event: Any) -> None:
        statements.append(event[2])

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        resume(spec)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    return [statement for statement in statements if "proxytune_driver" not in statement]


@pytest.mark.slow
def test_a_study_of_any_size_is_resumed_by_one_read_of_its_trials(make_spec) -> None:
    end = {"outcome": "complete", "reason": "", "step": 3, "metrics": {"val_accuracy": 0.5, "val_loss": 0.5}}
    ended = optuna.trial.create_trial(value=0.5, user_attrs={END: end}, intermediate_values={3: 0.5})
    asked = []
    for num_trials in (3, 600):
        spec = make_spec(f"name=of-{num_trials}", "search.trials=1000")
        study = begin_study(spec)
        study.optuna.add_trials([ended] * num_trials)
        study.storage.engine.dispose()
        resume(spec)
        asked.append(statements_of_a_resume(spec))
    small, large = asked
    assert len([statement for statement in large if "JOIN trials" in statement]) == 5  # a table each
    assert len(large) == len(small)
