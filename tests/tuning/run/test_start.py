"""Starts of a study: nothing is written before the lease is acquired, and requests posted meanwhile are handled."""

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

from proxytune.tuning.errors import HeldError, InputError, Interrupted
from proxytune.tuning.journal.reading import read_events
from proxytune.tuning.journal.recovery import open_journal, recover
from proxytune.tuning.run import begin
from proxytune.tuning.run.begin import begin_study, hold_study
from proxytune.tuning.run.driver import run_study
from proxytune.tuning.run.look import check_study, wanted_budget
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.store.attributes import BUDGET, END
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.store.request import Kind
from proxytune.tuning.store.steering import announce_start, extend, is_stopping, pause, request_stop
from proxytune.tuning.store.stored_study import database_url
from proxytune.tuning.store.study import open_study

ENQUEUED = [{"model.num_proxies": n, "model.dropout": 0.1} for n in (2, 4, 8)]


@pytest.fixture(autouse=True)
def _database() -> None:
    """Replaces the prepared database: these tests include the creation of its tables."""


def all_rows(spec: Any) -> dict[str, list[Any]]:
    """All rows of the study's database except those of the lease."""
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


def test_rejected_run_writes_nothing(make_spec) -> None:
    with hold_study(make_spec()) as held:
        pause(held.study, on=True, who="alice")
        request_stop(held.study, now=False, who="alice")
        before = all_rows(make_spec())
        with pytest.raises(HeldError):
            begin_study(make_spec("search.trials=99", "resources.max_failures=1"))
        assert all_rows(make_spec()) == before
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
        print("started", flush=True)
    except HeldError:
        print("held", flush=True)
"""


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_two_concurrent_first_starts_enqueue_each_configuration_once(make_spec, tmp_path: Path) -> None:
    rounds = 4
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
        outcomes = {starter.stdout.readline().strip() for starter in starters if starter.stdout}
        assert outcomes <= {"started", "held"}
        assert "started" in outcomes
        study = open_study(specs[number].name, specs[number].storage)
        fixed = [trial.system_attrs["fixed_params"] for trial in study.trials()]
        assert fixed == ENQUEUED
    for starter in starters:
        assert starter.wait() == 0
        assert starter.stdout is not None
        starter.stdout.close()


def test_ten_concurrent_first_starts_create_one_study(make_spec) -> None:
    def create(_: int) -> str:
        try:
            begin_study(make_spec()).storage.engine.dispose()
        except HeldError as error:
            return f"rejected: {error}"
        return "started"

    with ThreadPoolExecutor(10) as pool:
        outcomes = Counter(outcome.partition(":")[0] for outcome in pool.map(create, range(10)))
    assert set(outcomes) <= {"started", "rejected"}
    assert outcomes["started"] >= 1
    study = open_study("small", make_spec().storage)
    assert len(study.trials()) == len(make_spec().search.enqueue)


def test_killed_creation_is_completed_and_a_foreign_study_is_rejected(make_spec) -> None:
    spec = make_spec(f"search.enqueue={json.dumps(ENQUEUED)}")
    spec.folder.mkdir(parents=True)
    storage = open_storage(database_url(spec.folder, None), create=True)
    foreign = optuna.create_study(study_name="small", storage=storage)
    foreign.enqueue_trial({"theirs": 1})
    with pytest.raises(InputError, match="study small was not created by proxytune"):
        begin_study(spec)
    foreign.set_user_attr("id", "f" * 32)  # the first write of a creation by proxytune
    study = begin_study(spec)
    assert [trial.system_attrs["fixed_params"] for trial in study.trials()] == ENQUEUED


def controller_of(spec: Any, study: Any) -> StudyController:
    from proxytune.tuning.journal.outbox import Outbox

    controller = StudyController(spec, study.optuna, study.storage, Outbox(spec.folder / "outbox"))
    controller.reconcile()
    controller.poll()
    return controller


def test_stop_posted_during_the_start_is_handled_and_an_older_stop_is_not(make_spec) -> None:
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
        assert controller.steering.stopping == "requested by alice"
        assert controller.steering.paused_by == "alice"
        assert controller.next_trial() is None
        assert is_stopping(study)
        assert study.requests.pending() == [], "handled once, with the driver's epoch"


def test_stop_posted_after_an_announced_start_is_handled_by_a_late_driver(make_spec) -> None:
    study = begin_study(make_spec())
    request_stop(study, now=False, who="before the start")
    announce_start(study, "service")
    assert not is_stopping(study)
    request_stop(study, now=True, who="alice")
    assert is_stopping(study)
    time.sleep(1.1)
    with hold_study(make_spec(), age=0) as held:
        assert controller_of(make_spec(), held.study).steering.stopping == "requested by alice"


def test_extension_without_a_driver_applies_now_and_at_the_next_start(make_spec) -> None:
    study = begin_study(make_spec())
    extend(study, 40)
    assert study.budget == 40
    extend(study, 7)
    assert open_study("small", make_spec().storage).budget == 7
    assert begin_study(make_spec()).budget == 7
    assert study.requests.pending() == []


def test_ray_that_does_not_start_leaves_the_journal_ended(make_spec, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise Interrupted("Ray did not start")

    monkeypatch.setattr("proxytune.tuning.cluster.session.ray_session", fails)
    spec = make_spec()
    with pytest.raises(Interrupted):
        run_study(spec)
    last = read_events(spec.folder / "outbox").events[-1]
    assert (last.kind, last.status, last.reason) == ("study_end", "interrupted", "Ray did not start")


def test_extension_posted_while_a_driver_starts_is_not_lost(
    make_spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("search.trials=9")
    study = begin_study(spec)
    extend(study, 20)

    def posts_another(stored, wanted, budget):
        extend(study, 30)
        return wanted_budget(stored, wanted, budget)

    monkeypatch.setattr(begin, "wanted_budget", posts_another)
    opened = begin_study(spec)
    monkeypatch.undo()
    assert opened.attributes[BUDGET] == 20
    assert opened.budget == 30, "the later request is pending"
    assert begin_study(spec).attributes[BUDGET] == 30


def test_changes_of_the_file_without_effect_are_reported_once(make_spec) -> None:
    begin_study(make_spec("search.trials=9"))
    changed = make_spec("search.trials=3", f"search.enqueue={json.dumps(ENQUEUED)}")
    lines = [
        "search.trials: lowering it to 3 has no effect, the budget of study small is 9; extend changes it",
        "search.enqueue: the change applies only to new studies; add configurations to study small with enqueue",
    ]
    assert check_study(changed)[1:] == lines
    with hold_study(changed) as held:
        assert list(held.notes) == lines
    with hold_study(changed) as held:
        assert held.notes == (), "reported once"
    assert begin_study(make_spec("search.trials=12", f"search.enqueue={json.dumps(ENQUEUED)}")).budget == 12


def resume(spec: Any) -> None:
    """Resume the study as a driver does, up to its next trial."""
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
    """The SQL statements of a resume except those of the lease, which depend on time."""
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
def test_resume_reads_the_trials_once_for_any_study_size(make_spec) -> None:
    end = {"outcome": "complete", "reason": "", "step": 3, "metrics": {"val_accuracy": 0.5, "val_loss": 0.5}}
    ended = optuna.trial.create_trial(value=0.5, user_attrs={END: end}, intermediate_values={3: 0.5})
    statements = []
    for num_trials in (3, 600):
        spec = make_spec(f"name=of-{num_trials}", "search.trials=1000")
        study = begin_study(spec)
        study.optuna.add_trials([ended] * num_trials)
        study.storage.engine.dispose()
        resume(spec)
        statements.append(statements_of_a_resume(spec))
    small, large = statements
    assert len([statement for statement in large if "JOIN trials" in statement]) == 5  # one per table
    assert len(large) == len(small)
