"""The database, the folder, the checkpoints and the data of a study must belong to the same study."""

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


def test_study_folder_without_its_database_is_rejected(make_spec) -> None:
    """Version 0.1.0 trained nothing, used the old weights with the new configuration, and returned 0."""
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


def test_changed_database_url_is_rejected(make_spec, tmp_path: Path) -> None:
    finish(make_spec("search.trials=1", "search.stopping.name=none"))
    other = f"database=sqlite:///{tmp_path / 'other.db'}"
    with pytest.raises(InputError, match="but the database has no such study: restore the matching database"):
        begin_study(make_spec("search.trials=1", "search.stopping.name=none", other))
    begin_study(make_spec("name=small2", other))


def test_older_database_than_the_checkpoints_is_rejected(make_spec, tmp_path) -> None:
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


def test_checkpoint_of_another_trial_stops_the_driver_and_is_kept(
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
    trials.joinpath("0").rename(trials / "1")  # as after restoring a database in which trial 1 differs
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


def test_journal_of_another_study_is_rejected_and_kept(make_spec) -> None:
    spec, other = make_spec(), make_spec("name=other")
    for created in (spec, other):
        with hold_study(created) as held:
            open_journal(held.study).close()
    journal = spec.folder / "outbox" / "events.jsonl"
    original = journal.read_bytes()
    shutil.copyfile(other.folder / "outbox" / "events.jsonl", journal)
    with hold_study(spec) as held, pytest.raises(InputError, match="is the journal of study"):
        open_journal(held.study)
    assert journal.read_bytes() == (other.folder / "outbox" / "events.jsonl").read_bytes()
    journal.unlink()
    with hold_study(spec) as held:
        open_journal(held.study).close()
    assert journal.read_bytes() == original


def test_changed_data_is_rejected_with_both_fingerprints(make_spec) -> None:
    spec = make_spec()
    with hold_study(spec, data=DATA) as held:
        assert held.study.data["fingerprint"] == "a" * 64
    with (
        pytest.raises(
            InputError, match="trains on listops-mini data aaaaaaaaaaaa, but the data here is bbbbbbbbbbbb"
        ),
        hold_study(spec, data=DATA | {"fingerprint": "b" * 64}),
    ):
        raise AssertionError("the study was opened with changed data")
    with hold_study(spec, data=DATA):
        pass


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.usefixtures("without_programs", "quick_measurements")
def test_study_with_changed_data_is_not_exported_or_confirmed(make_spec, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_tsv(root)
    task = f"task={{name: listops, root: {root}, partial: true, max_length: 32}}"
    steps = "training.steps=2", "training.warmup_steps=0", "training.eval_every=2"
    spec = make_spec(task, *steps, "search.trials=1", "search.stopping.name=none")
    trained_on = data_facts(prepare_task(spec.task))
    with hold_study(spec, data=trained_on):
        pass
    study = finish(spec)
    unchanged = (root / "basic_train.tsv").read_bytes()
    (root / "basic_train.tsv").write_bytes(b"".join(unchanged.splitlines(keepends=True)[:-1]))
    changed = prepare_task(spec.task).fingerprint
    error = f"trains on listops data {trained_on['fingerprint'][:12]}, but the data here is {changed[:12]}"
    with pytest.raises(InputError, match=error):
        export_study(study, tmp_path / "winner")
    assert not (tmp_path / "winner").exists()
    with pytest.raises(InputError, match=error):
        confirm_study(study, top=1, num_seeds=2, who="user")
    (root / "basic_train.tsv").write_bytes(unchanged)
    export_study(study, tmp_path / "winner")
    for name in ("provenance.json", "sweep.json"):
        assert json.loads((tmp_path / "winner" / name).read_text())["data"] == trained_on


def test_trial_records_the_fingerprint_of_its_data(make_spec) -> None:
    spec = make_spec()
    study = begin_study(spec)
    outbox = Outbox(spec.folder / "outbox")
    controller = StudyController(spec, study.optuna, study.storage, outbox, DATA)
    controller.reconcile()
    assert controller.next_trial() is not None
    assert study.trials()[0].user_attrs["data"] == "a" * 64
    outbox.close()


@pytest.mark.parametrize("part", ["", "trials", "outbox", "study.db"])
def test_symbolic_link_in_a_study_path_is_rejected(make_spec, tmp_path: Path, part: str) -> None:
    spec = make_spec()
    target = tmp_path / "target"
    target.mkdir()
    link = spec.folder / part if part else spec.folder
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    with pytest.raises(InputError, match="is a symbolic link"):
        begin_study(spec)
    assert list(target.iterdir()) == []


def test_study_folder_and_files_are_private(make_spec) -> None:
    study = begin_study(make_spec())
    assert study.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in study.folder.iterdir()} == {0o600}
