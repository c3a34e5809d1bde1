"""Fixtures for all tests of `tuning`: the spec of a small study, a finished study with its export, the command line."""

import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from optuna.storages._rdb.storage import _VersionManager

from proxytune.datasets import PreparedTask
from proxytune.tuning.cli import main
from proxytune.tuning.export import export as export_module
from proxytune.tuning.export.export import ExportResult, export_study
from proxytune.tuning.journal.events import Event
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.study_spec import StudySpec, parse_study
from proxytune.tuning.spec.yaml_file import override
from proxytune.tuning.store import database
from proxytune.tuning.store.checkpoints import Checkpoints, Owner
from proxytune.tuning.store.folder import Folder
from proxytune.tuning.store.study import Study, open_study
from proxytune.tuning.trial import efficiency
from proxytune.tuning.trial.data import prepare_task
from proxytune.tuning.trial.trial_run import TrialRun
from tests.commandline import CommandResult, proxytune

STUDY = {
    "name": "small",
    "task": {"name": "listops-mini", "train_examples": 256},
    "model": {"num_layers": 1, "embedding_dim": 16, "feedforward_dim": 16, "num_proxies": 4},
    "training": {"steps": 6, "warmup_steps": 2, "batch_size": 8, "learning_rate": 1e-3, "eval_every": 3},
    "search": {
        "space": {"model.num_proxies": {"choice": [2, 4, 8]}, "model.dropout": {"low": 0.0, "high": 0.3}},
        "constraints": {"train_memory_mib_per_sequence": "<= 100"},
        "stopping": {"name": "asha", "min_steps": 3, "reduction_factor": 3},
        "trials": 5,
        "enqueue": [{"model.num_proxies": 4, "model.dropout": 0.1}],
    },
}

EXPORT_FILES = {
    *("config.yaml", "metrics.json", "model.json", "provenance.json", "sweep.json", "card.md"),
    *("weights.safetensors", "model.pt2", "model.onnx", "SHA256SUMS"),
}
"""The files of every export."""
NO_PROGRAMS = {name: {"missing": "not written in tests"} for name in ("model.pt2", "model.onnx")}


def checkpoints_in(folder: Path | str, configuration: str = "c", trial: int = 0) -> Checkpoints:
    """Checkpoints of a dummy trial in a local folder or an object store."""
    return Checkpoints(Folder(str(folder)), Owner("study", trial, configuration))


def finish(spec: StudySpec) -> Study:
    """Run the study to its budget in this process with the real controller and trainer, without Ray and MLflow."""
    study = begin_study(spec)
    outbox = Outbox(spec.folder / "outbox")
    controller = StudyController(spec, study.optuna, study.storage, outbox)
    controller.reconcile()
    while (assignment := controller.next_trial()) is not None:
        training = TrialRun(assignment.spec, assignment.checkpoints)
        while not controller.receive(assignment.number, training.advance(), {}):
            pass
    outbox.close()
    return study


@dataclass(frozen=True)
class Finished:
    """A finished study, the export of its winner, and its prepared data."""

    study: Study
    written: ExportResult
    prepared: PreparedTask


@pytest.fixture(autouse=True)
def _cache(data_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PROXYTUNE_CACHE", str(data_cache))
    return


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with Optuna's schema and no studies. Creating it takes half a second: once per session."""
    path = tmp_path_factory.mktemp("empty-database") / "study.db"
    database.open_storage(f"sqlite:///{path}", create=True).engine.dispose()
    return path


@pytest.fixture(scope="session", autouse=True)
def _version(empty_database: Path) -> Iterator[None]:
    """Cache the latest schema version. To find it, Optuna imports all of its migrations whenever it opens a database."""
    version = database.open_storage(f"sqlite:///{empty_database}", create=False).get_head_version()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_VersionManager, "get_head_version", lambda _: version)
        yield


@pytest.fixture(autouse=True)
def _database(empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create databases as copies of `empty_database`; tests of the schema override this fixture."""
    ensure_schema = database._ensure_schema

    def ensure(url: str, file: Path | None, options: dict[str, Any]) -> None:
        if file is not None and not file.exists():
            shutil.copyfile(empty_database, file)
        ensure_schema(url, file, options)

    monkeypatch.setattr(database, "_ensure_schema", ensure)


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., StudySpec]:
    """Factory of a spec that trains within seconds (256 examples of listops-mini, one layer), with `key=value` overrides."""

    def make(*assignments: str) -> StudySpec:
        values = {
            "name": "small",
            "task": {"name": "listops-mini", "train_examples": 256},
            "model": {"num_layers": 1, "embedding_dim": 16, "feedforward_dim": 16, "num_proxies": 4},
            "training": {
                "steps": 30,
                "warmup_steps": 3,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "eval_every": 10,
            },
            "search": {
                "space": {
                    "model.num_proxies": {"choice": [2, 4, 8]},
                    "model.dropout": {"low": 0.0, "high": 0.3},
                },
                "trials": 4,
                "enqueue": [{"model.num_proxies": 4, "model.dropout": 0.1}],
            },
            "storage": str(tmp_path / "studies"),
        }
        return parse_study(override(values, assignments), "test")

    return make


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., Any]:
    """Run `proxytune ARGUMENTS --json` in a folder, by default `tmp_path`, and return the parsed output."""

    def run(*arguments: str, folder: Path = tmp_path) -> Any:
        done = proxytune(*arguments, "--json", cwd=folder)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Run `proxytune ARGUMENTS` in this process, without the seconds for its imports, and return what a user sees."""

    def run(*arguments: object, cwd: Path) -> CommandResult:
        capfd.readouterr()
        code = 0
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr("sys.argv", ["proxytune", *map(str, arguments)])
            try:
                main()
            except SystemExit as exit:
                code = int(exit.code or 0)
        shown = capfd.readouterr()
        return CommandResult(code, shown.out, shown.err)

    return run


@pytest.fixture
def outbox_folder(tmp_path: Path) -> Path:
    """Folder of the journal of a study with synthetic events."""
    return tmp_path / "studies" / "study" / "outbox"


@pytest.fixture
def fill(outbox_folder: Path) -> Callable[[Iterable[Event]], None]:
    """Append events to the journal in `outbox_folder`."""

    def append(events: Iterable[Event]) -> None:
        outbox = Outbox(outbox_folder)
        for event in events:
            outbox.append(event)
        outbox.close()

    return append


@pytest.fixture
def without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without model.pt2 and model.onnx, which take ten seconds per folder; test_export.py tests them."""
    monkeypatch.setattr(export_module, "write_programs", lambda *_: NO_PROGRAMS)


@pytest.fixture
def quick_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the speed of a configuration with one pass in each direction instead of passes for two seconds."""
    monkeypatch.setattr(
        efficiency, "measure_efficiency", functools.partial(efficiency.measure_efficiency, seconds=0.0)
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data_cache: Path) -> Iterator[Finished]:
    """A finished study and its export without programs; read-only."""
    folder = tmp_path_factory.mktemp("winner")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROXYTUNE_CACHE", str(data_cache))
        study = finish(parse_study(override(STUDY, [f"storage={folder}/studies"]), "test"))
        with patch.context() as export_patch:
            export_patch.setattr(export_module, "write_programs", lambda *_: NO_PROGRAMS)
            (written,) = export_study(study, folder / "export")
        yield Finished(study, written, prepare_task(study.spec.task))


@pytest.fixture
def study(finished: Finished) -> Study:
    return open_study(finished.study.name, finished.study.spec.storage)


@pytest.fixture
def exported(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the export that the test may change."""
    return Path(shutil.copytree(finished.written.folder, tmp_path / "export"))


@pytest.fixture
def make_small(tmp_path: Path) -> Callable[..., StudySpec]:
    """Factory of the spec of `study`, stored in `tmp_path`, with `key=value` overrides."""
    return lambda *assignments: parse_study(
        override(STUDY, [f"storage={tmp_path}/studies", *assignments]), "test"
    )
