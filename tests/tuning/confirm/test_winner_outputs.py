"""After a confirmation, every output names the same winner and the rule that chose it."""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxytune.tuning import Client, best, export_study, load_study
from proxytune.tuning.cli import cli
from proxytune.tuning.compare.compare import compare
from proxytune.tuning.confirm.candidates import candidates, fresh_seeds, without_seed
from proxytune.tuning.confirm.confirm import record
from proxytune.tuning.confirm.outcome import conclude
from proxytune.tuning.confirm.retraining import Plan, Race, retraining_spec, retrainings
from proxytune.tuning.confirm.test_split import accuracies_on_test
from proxytune.tuning.export.verify import verify_export
from proxytune.tuning.journal.events import StudyEnded, StudyStarted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.report.history import read_history
from proxytune.tuning.report.page import report_page
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.outcome import StudyStatus
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.store.study import Study
from proxytune.tuning.store.winner import winner
from proxytune.tuning.trial.profile import predicted_profile
from proxytune.tuning.trial.trial_run import TrialRun
from tests.tuning.service.conftest import Servers

SPEEDS = {"train_sequences_per_second": 100.0, "inference_sequences_per_second": 900.0}
SEARCHED = {2: 0.2, 8: 0.9}
"""The accuracy reported to the search, by the number of proxies."""


@pytest.fixture
def study(make_small: Callable[..., StudySpec]) -> Study:
    """Two trained configurations, of which the search prefers the more expensive one."""
    queue = json.dumps([{"model.num_proxies": number, "model.dropout": 0.1} for number in SEARCHED])
    spec = make_small(f"search.enqueue={queue}", "search.trials=3", "search.stopping.name=none")
    study = begin_study(spec)
    outbox = Outbox(spec.folder / "outbox")
    outbox.append(StudyStarted(study=spec.name, spec=spec.model_dump(mode="json"), budget=2))
    controller = StudyController(spec, study.optuna, study.storage, outbox)
    controller.reconcile()
    for accuracy in SEARCHED.values():
        assignment = controller.next_trial()
        assert assignment is not None
        run, stop = TrialRun(assignment.spec, assignment.checkpoints), False
        while not stop:
            update = run.advance()
            if update.metrics is not None:
                update = replace(update, metrics=update.metrics | {"val_accuracy": accuracy})
            stop = controller.receive(assignment.number, update, {})
    outbox.append(StudyEnded(status=StudyStatus.FINISHED))
    outbox.close()
    return study


@pytest.fixture
def address(study: Study) -> Iterator[str]:
    servers = Servers(study.spec.storage)
    yield servers.start()
    servers.stop()


def confirm(study: Study) -> None:
    """Do what `confirm_study` does, with the retrainings and the test in this process instead of on Ray."""
    chosen = {trial.number: trial for trial in candidates(study, 2)}
    plan = Plan({number: without_seed(trial) for number, trial in chosen.items()}, fresh_seeds(study, 2))
    spec = retraining_spec(study.spec, plan)
    retraining = begin_study(spec)
    outbox = Outbox(spec.folder / "outbox")
    controller = Race(plan, spec, retraining.optuna, retraining.storage, outbox)
    controller.reconcile()
    while (assignment := controller.next_trial()) is not None:
        run = TrialRun(assignment.spec, assignment.checkpoints)
        while not controller.receive(assignment.number, run.advance(), {}):
            pass
    outbox.close()
    trials = retrainings(retraining.trials())
    costs = {
        number: predicted_profile(study.spec.trial(trial.params)) | SPEEDS for number, trial in chosen.items()
    }
    confirmation = conclude(study, chosen, plan, trials, costs, len(trials))
    models = [trials[confirmation.winner, seed] for seed in confirmation.best.seeds]
    checkpoints = [retraining.checkpoints(model) for model in models]
    evaluate = functools.partial(accuracies_on_test, log_folder=study.folder)
    record(study, confirmation, checkpoints, evaluate, who="tester", again=False, say=lambda line: None)


def in_mlflow(uri: str) -> dict[str, str]:
    """The winner in the tags of the study's run, and the registered model with the alias `best`."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("proxytune")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.study_key = 'small'")
    tags = {name: run.data.tags[name] for name in ("winner_trial", "winner_rule")}
    registered = client.get_model_version_by_alias("small", "best")
    return tags | {"registered": registered.tags["trial_key"], "description": registered.description or ""}


RULE = "confirmed mean over 2 fresh seeds, the cheapest of 2 tied"


def check_export(opened: Study, target: Path) -> None:
    assert best(opened).trial == 0
    (folder,) = export_study(opened, target, register=True)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert (provenance["trial"], provenance["selected_by"]) == (0, RULE)
    assert f"Chosen by: {RULE}." in (folder / "card.md").read_text()
    assert verify_export(folder) == []


def check_show(run: Callable[..., str]) -> None:
    facts = json.loads(run("show", "small", "--json"))
    assert facts["winner"] == {"trial": 0, "rule": RULE}
    assert facts["confirmation"]["winner"] == 0
    text = run("show", "small")
    assert f"winner: trial 0 ({RULE})" in text
    assert "small: val_accuracy on fresh seeds" in text


def check_report_and_compare(opened: Study) -> None:
    history = read_history(opened.folder / "outbox")
    assert history.winner == {"trial": 0, "rule": RULE}
    page = report_page(history)
    assert f"Trial 0, by {RULE}." in page
    assert "<h2>Confirmation</h2>" in page
    assert "Test accuracy of the winner" in page
    (row,) = compare([opened]).rows
    assert (row.trial, row.basis) == (0, RULE)


def check_service(address: str) -> None:
    with Client(address) as client:
        answer = client.best("small")
        assert (answer["best"]["trial"], answer["rule"]) == (0, RULE)
        assert client.study("small")["winner"] == {"trial": 0, "rule": RULE}


def check_mlflow(uri: str) -> None:
    tags = in_mlflow(uri)
    assert tags["winner_trial"] == "0"
    assert tags["winner_rule"] == RULE
    assert tags["registered"] == "small/0"
    assert RULE in tags["description"]


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_every_output_names_the_confirmed_winner_and_its_rule(
    study: Study,
    address: str,
    tmp_path: Path,
    without_programs: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = winner(study)
    assert before is not None
    assert (before.trial, before.rule) == (1, "best search value")
    assert read_history(study.folder / "outbox").winner == {"trial": 1, "rule": "best search value"}

    confirm(study)

    opened = load_study("small", study.spec.storage)
    found = winner(opened)
    assert found is not None
    assert found.trial == 0, "both trials are tied on fresh seeds, and trial 0 is cheaper"
    assert found.rule == RULE

    def run(*arguments: str) -> str:
        cli.main([*arguments, "--storage", str(study.spec.storage)], standalone_mode=False)
        return capsys.readouterr().out

    check_export(opened, tmp_path / "winner")
    check_show(run)
    check_report_and_compare(opened)
    check_service(address)
    check_mlflow(opened.tracking_uri)
