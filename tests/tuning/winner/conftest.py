"""One small finished study and its export, which the tests of this folder share: real training, no Ray."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxytune.datasets import PreparedTask
from proxytune.tuning.data import prepare_task
from proxytune.tuning.search.ledger import Ledger
from proxytune.tuning.spec import StudySpec, parse_study
from proxytune.tuning.study import Study, begin_study, open_study
from proxytune.tuning.tracking.outbox import Outbox
from proxytune.tuning.trial.trial_run import TrialRun
from proxytune.tuning.winner.export import Written, export_study
from proxytune.tuning.yaml_file import override

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


def finish(spec: StudySpec) -> Study:
    """Run the study to its budget in this process: the ledger's rules, real training, no Ray and no MLflow."""
    study = begin_study(spec)
    outbox = Outbox(spec.folder / "outbox")
    ledger = Ledger(spec, study.optuna, study.storage, outbox)
    ledger.reconcile()
    while (assignment := ledger.next_trial()) is not None:
        training = TrialRun(assignment.spec, assignment.folder)
        while not ledger.receive(assignment.number, training.turn(), {}):
            pass
    outbox.close()
    return study


@dataclass(frozen=True)
class Finished:
    """A finished study and its winner's export."""

    study: Study
    written: Written
    prepared: PreparedTask


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data_cache: Path) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("winner")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROXYTUNE_CACHE", str(data_cache))
        study = finish(parse_study(override(STUDY, [f"storage={folder}/studies"]), "test"))
        (written,) = export_study(study, folder / "export")
        yield Finished(study, written, prepare_task(study.spec.task))


@pytest.fixture
def study(finished: Finished) -> Study:
    return open_study(finished.study.name, finished.study.spec.storage)


@pytest.fixture
def exported(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the export that a test may change."""
    return Path(shutil.copytree(finished.written.folder, tmp_path / "export"))


@pytest.fixture
def make_small(tmp_path: Path) -> Callable[..., StudySpec]:
    """The study's spec under another storage, with overrides."""
    return lambda *assignments: parse_study(
        override(STUDY, [f"storage={tmp_path}/studies", *assignments]), "test"
    )
