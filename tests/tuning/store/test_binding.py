"""What belongs together: a study's database, its folder, its checkpoints and its data."""

import json
import shutil
from pathlib import Path

import pytest

from proxytune.tuning import export_study
from proxytune.tuning.confirm.confirm import confirm_study
from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.journal.recovery import open_journal
from proxytune.tuning.run.begin import begin_study, hold_study
from proxytune.tuning.run.provenance import data_facts
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.store.steering import enqueue
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.trial_run import TrialRun
from proxytune.tuning.trial.update import TrialUpdate
from tests.datasets.test_formats_listops import write_tsv
from tests.tuning.conftest import finish

DATA = {"task": "listops-mini", "fingerprint": "a" * 64, "conventions": {}}


def test_a_folder_whose_database_was_removed_is_refused(make_spec) -> None:
    """0.1.0 trained nothing, took the old weights under the new configuration, and exited with 0."""
    spec = make_spec("search.trials=1", "search.stopping.name=none")
    finish(spec)
    shutil.rmtree(spec.folder / "outbox")
    for name in ("study.db", "study.db-wal", "study.db-shm"):
        (spec.folder / name).unlink(missing_ok=True)
    other = make_spec("search.trials=1", "search.stopping.name=none", "training.learning_rate=0.1")
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"small belongs to study \w{12}, but the database has no such study"
        ):
            begin_study(other)
    (spec.folder / "study-id").unlink()
    with pytest.raises(InputError, match="has checkpoints of trial 0, which is not in the database"):
        begin_study(other)


def test_another_database_key_is_refused(make_spec, tmp_path: Path) -> None:
    finish(make_spec("search.trials=1", "search.stopping.name=none"))
    other = f"database=sqlite:///{tmp_path / 'other.db'}"
    with pytest.raises(InputError, match="but the database has no such study: restore the matching database"):
        begin_study(make_spec("search.trials=1", "search.stopping.name=none", other))
    begin_study(make_spec("name=small2", other))


def test_a_restored_older_database_is_refused_before_its_trials_take_lost_weights(
    make_spec, tmp_path
) -> None:
    spec = make_spec("search.trials=2", "search.stopping.name=none")
    begin_study(spec).storage.engine.dispose()
    backup = tmp_path / "backup.db"
    shutil.copy(spec.folder / "study.db", backup)
    finish(spec).storage.engine.dispose()
    for name in ("study.db-wal", "study.db-shm"):
        (spec.folder / name).unlink(missing_ok=True)
    shutil.copy(backup, spec.folder / "study.db")
    with pytest.raises(InputError, match="has checkpoints of trial 1, which is not in the database"):
        begin_study(spec)


def test_a_trial_with_the_checkpoint_of_another_configuration_stops_the_driver_and_keeps_it(
    make_spec,
) -> None:
    spec = make_spec("search.trials=2", "search.enqueue=[]", "search.stopping.name=none")
    study = begin_study(spec)
    enqueue(study, {"model.num_proxies": 2, "model.dropout": 0.1})
    enqueue(study, {"model.num_proxies": 8, "model.dropout": 0.1})
    outbox = Outbox(spec.folder / "outbox")
    controller = StudyController(spec, study.optuna, study.storage, outbox)
    controller.reconcile()
    first = controller.next_trial()
    assert first is not None
    run = TrialRun(first.spec, first.checkpoints)
    run.advance()
    trials = spec.folder / "trials"
    trials.joinpath("0").rename(trials / "1")  # as a restored database with another trial 1 finds it
    second = controller.next_trial()
    assert second is not None
    with pytest.raises(
        Exception, match=r"step-0000000010 belongs to another trial \(0, not 1\).*move .*/1 away"
    ) as caught:
        TrialRun(second.spec, second.checkpoints)
    with pytest.raises(StorageError, match=r"trial 1 cannot be resumed: .* belongs to another trial"):
        controller.receive(1, TrialUpdate(step=0, foreign=True, reason=str(caught.value)), {})
    assert [trial.state.name for trial in study.trials()] == ["RUNNING", "WAITING"]
    assert (trials / "1" / "step-0000000010").exists()
    outbox.close()


def test_the_journal_of_another_study_is_refused_and_kept(make_spec) -> None:
    one, other = make_spec(), make_spec("name=other")
    for spec in (one, other):
        with hold_study(spec) as held:
            open_journal(held.study).close()
    journal = one.folder / "outbox" / "events.jsonl"
    own = journal.read_bytes()
    shutil.copyfile(other.folder / "outbox" / "events.jsonl", journal)
    with hold_study(one) as held, pytest.raises(InputError, match="is the journal of study"):
        open_journal(held.study)
    assert journal.read_bytes() == (other.folder / "outbox" / "events.jsonl").read_bytes()
    journal.unlink()
    with hold_study(one) as held:
        open_journal(held.study).close()
    assert journal.read_bytes() == own


def test_other_data_is_refused_and_both_are_named(make_spec) -> None:
    spec = make_spec()
    with hold_study(spec, data=DATA) as held:
        assert held.study.data["fingerprint"] == "a" * 64
    with (
        pytest.raises(
            InputError, match="trains on listops-mini data aaaaaaaaaaaa, but the data here is bbbbbbbbbbbb"
        ),
        hold_study(spec, data=DATA | {"fingerprint": "b" * 64}),
    ):
        raise AssertionError("it was opened")
    with hold_study(spec, data=DATA):
        pass


@pytest.mark.usefixtures("without_programs")
def test_what_was_trained_on_other_data_is_neither_exported_nor_confirmed(make_spec, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_tsv(root)
    task = f"task={{name: listops, root: {root}, partial: true}}"
    steps = "training.steps=2", "training.warmup_steps=0", "training.eval_every=2"
    spec = make_spec(task, *steps, "search.trials=1", "search.stopping.name=none")
    trained_on = data_facts(prepare_task(spec.task))
    with hold_study(spec, data=trained_on):
        pass
    study = finish(spec)
    unchanged = (root / "basic_train.tsv").read_bytes()
    (root / "basic_train.tsv").write_bytes(b"".join(unchanged.splitlines(keepends=True)[:-1]))
    here = prepare_task(spec.task).fingerprint
    error = f"trains on listops data {trained_on['fingerprint'][:12]}, but the data here is {here[:12]}"
    with pytest.raises(InputError, match=error):
        export_study(study, tmp_path / "winner")
    assert not (tmp_path / "winner").exists()
    with pytest.raises(InputError, match=error):
        confirm_study(study, top=1, num_seeds=2, who="somebody")
    (root / "basic_train.tsv").write_bytes(unchanged)
    export_study(study, tmp_path / "winner")
    for name in ("provenance.json", "sweep.json"):
        assert json.loads((tmp_path / "winner" / name).read_text())["data"] == trained_on


def test_a_trial_records_the_data_that_it_trains_on(make_spec) -> None:
    spec = make_spec()
    study = begin_study(spec)
    outbox = Outbox(spec.folder / "outbox")
    controller = StudyController(spec, study.optuna, study.storage, outbox, DATA)
    controller.reconcile()
    assert controller.next_trial() is not None
    assert study.trials()[0].user_attrs["data"] == "a" * 64
    outbox.close()


@pytest.mark.parametrize("part", ["", "trials", "outbox", "study.db"])
def test_a_symbolic_link_in_the_place_of_a_study_is_refused(make_spec, tmp_path: Path, part: str) -> None:
    spec = make_spec()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = spec.folder / part if part else spec.folder
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(InputError, match="is a symbolic link"):
        begin_study(spec)
    assert list(elsewhere.iterdir()) == []


def test_a_study_and_its_files_are_private(make_spec) -> None:
    study = begin_study(make_spec())
    assert study.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in study.folder.iterdir()} == {0o600}
