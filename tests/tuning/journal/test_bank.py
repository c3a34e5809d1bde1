"""The curve bank: journals of finished studies that come with the package."""

import lzma
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxytune.tuning.cli import cli
from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.bank import open_banked, write_banked
from proxytune.tuning.journal.events import (
    Noted,
    Reported,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
)
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.report.history import read_history
from proxytune.tuning.run.look import check_study
from proxytune.tuning.search.warm_start import read_warm_start
from proxytune.tuning.spec.study_spec import parse_study
from proxytune.tuning.studies import banked_studies

SECRETS = ("node7.example.com", "/home/alice", "alice")


def test_banked_study_keeps_its_results_and_nothing_of_the_machine(make_spec, tmp_path: Path) -> None:
    spec = make_spec("storage=/home/alice/studies", "task.root=/home/alice/data")
    outbox = Outbox(tmp_path)
    dumped = spec.model_dump(mode="json")
    outbox.append(
        StudyStarted(
            study=spec.name, spec=dumped, facts={"hardware": {"host": "node7.example.com", "cpus": 4}}
        )
    )
    outbox.append(Noted(who="alice", text="more proxies next time"))
    outbox.append(TrialStarted(trial=0, params={"model.dropout": 0.25}, config={"root": "/home/alice/data"}))
    outbox.append(Reported(trial=0, step=30, metrics={"val_accuracy": 0.5}, node="node7.example.com", pid=7))
    outbox.append(TrialEnded(trial=0, step=30, outcome="complete"))
    outbox.append(StudyEnded(status="finished", summary={"folder": "/home/alice/studies"}))
    outbox.close()
    banked = tmp_path / "banked.jsonl.xz"
    write_banked(tmp_path, banked)
    text = lzma.decompress(banked.read_bytes()).decode()
    assert not [secret for secret in SECRETS if secret in text]
    with open_banked(banked) as folder:
        kept = read_history(folder)
    own = read_history(tmp_path)
    assert kept.problems == []
    assert (kept.name, kept.status, kept.facts["hardware"]) == (own.name, own.status, {"cpus": 4})
    for name in ("params", "outcome", "step", "curves", "last"):
        assert getattr(kept.trials[0], name) == getattr(own.trials[0], name)
    assert parse_study(kept.spec, where=None).search == spec.search


@pytest.mark.parametrize("name", banked_studies())
def test_studies_of_the_bank_are_readable_and_name_no_machine(name: str) -> None:
    path = banked_studies()[name]
    text = lzma.decompress(path.read_bytes()).decode()
    assert '"host"' not in text
    assert '"node"' not in text
    with open_banked(name) as folder:
        history = read_history(folder)
    spec = parse_study(history.spec, where=name)
    assert (history.problems, spec.name) == ([], name)
    assert spec.task.root is None
    assert history.eligible()
    for trial in history.trials.values():
        assert set(trial.params) <= set(spec.search.space)
        assert all(spec.space.contains(key, value) for key, value in trial.params.items())


def test_bank_names_its_studies_and_refuses_a_damaged_file(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="no study 'text-512-proxyforme'; did you mean text-512-proxyformer"),
        open_banked("text-512-proxyforme"),
    ):
        pass
    damaged = tmp_path / "damaged.jsonl.xz"
    damaged.write_bytes(b"not xz")
    with (
        pytest.raises(InputError, match=r"damaged\.jsonl\.xz: not a compressed journal"),
        open_banked(damaged),
    ):
        pass


def test_report_of_a_banked_study_does_not_overwrite_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def report(*arguments: str):
        return CliRunner().invoke(cli, ["report", *arguments])

    assert report("--bank", "text-512-proxyformer").exit_code == 0
    page = Path("text-512-proxyformer.html")
    assert "Study text-512-proxyformer" in page.read_text()
    page.write_text("mine")
    refused = report("--bank", "text-512-proxyformer")
    assert "text-512-proxyformer.html exists; name the output file with --out" in str(refused.exception)
    assert page.read_text() == "mine"
    assert report("--bank", "text-512-proxyformer", "--out", str(page)).exit_code == 0
    assert "did you mean text-512-proxyformer" in str(report("--bank", "text-512-proxyforme").exception)
    for arguments in ([], ["some", "--bank", "text-512-proxyformer"]):
        assert "name one of STUDY and --bank" in str(report(*arguments).exception)


def test_warm_start_from_the_bank_takes_its_best_configurations_but_no_values_of_another_task(
    make_spec,
) -> None:
    space = """{
        model.num_proxies: {low: 8, high: 128, log: true}, model.contrastive_weight: {low: 0.0001, high: 0.1, log: true},
        model.contrastive_temperature: {low: 0.05, high: 1.0, log: true}, model.dropout: {low: 0.0, high: 0.3},
        training.learning_rate: {low: 3e-4, high: 1e-2, log: true}}"""
    spec = make_spec(
        "search.warm_start={bank: text-512-proxyformer, top: 2}",
        f"search.space={space}",
        "search.enqueue=[]",
        "search.sampler=curve",
    )
    earlier = read_warm_start(spec)
    assert earlier is not None
    with open_banked("text-512-proxyformer") as folder:
        history = read_history(folder)
    inside = {
        number: last
        for number, last in history.eligible().items()
        if history.trials[number].params["model.dropout"] <= 0.3
    }
    best = sorted(inside, key=lambda number: -inside[number]["val_accuracy"])[:2]
    assert [first["trial"] for first in earlier.first] == best
    assert [first["params"] for first in earlier.first] == [history.trials[number].params for number in best]
    assert earlier.trials == []
    assert any("do not inform the search" in note for note in earlier.notes)
    assert "warm start from text-512-proxyformer: 2 of its configurations run first" in "\n".join(
        check_study(spec)
    )


@pytest.mark.parametrize(
    ("warm_start", "message"),
    [
        ("{bank: text-513}", "search.warm_start.bank: the curve bank has no study 'text-513'; known: "),
        ("{bank: text-512-proxyformer, study: other}", "search.warm_start: name one of study and bank"),
        ("{top: 3}", "search.warm_start: name one of study and bank"),
        ("{bank: x, storage: /studies}", "search.warm_start.storage: bank x has none; remove the key"),
    ],
)
def test_wrong_source_of_a_warm_start_is_refused_in_one_line(
    make_spec, warm_start: str, message: str
) -> None:
    with pytest.raises(InputError) as refused:
        read_warm_start(make_spec(f"search.warm_start={warm_start}"))
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
