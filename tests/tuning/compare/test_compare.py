"""The comparison table: accuracies and their basis, ratios to softmax, published values."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from proxytune.tuning.cli import cli
from proxytune.tuning.compare.compare import compare
from proxytune.tuning.compare.page import accuracy_range, as_html, as_markdown, figure, published_tables
from proxytune.tuning.compare.published import PUBLISHED, TASKS
from proxytune.tuning.compare.row import Row
from proxytune.tuning.confirm.confirm import efficiency_folder
from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.events import StudyStarted
from proxytune.tuning.journal.outbox import Outbox
from proxytune.tuning.run.begin import begin_study
from proxytune.tuning.search.controller import StudyController
from proxytune.tuning.spec.metrics import MEMORY
from proxytune.tuning.spec.study_spec import parse_study
from proxytune.tuning.store.confirmation import CONFIRMATION, Candidate, Confirmation, TestResult
from proxytune.tuning.store.study import Study
from proxytune.tuning.trial.efficiency import efficiency_key
from proxytune.tuning.trial.profile import cost_spec, predicted_profile
from proxytune.tuning.trial.update import TrialUpdate

MECHANISMS = ["softmax", "proxyformer", "nystromformer", "linformer", "performer", "reformer", "bigbird"]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Study]:
    """Factory of a finished study whose trial n has the accuracy `accuracies[n]`."""

    def study(
        name: str,
        accuracies: list[float],
        queue: list[dict],
        steps: int = 4,
        trials: int | None = None,
        enqueued: int | None = None,
        examples: int | None = None,
        **task: object,
    ) -> Study:
        queue = queue[:enqueued]
        values = {
            "name": name,
            "task": {"name": "listops-mini"} | task,
            "model": {"num_layers": 1, "embedding_dim": 16, "feedforward_dim": 16, "num_proxies": 4},
            "training": {
                "steps": steps,
                "warmup_steps": 2,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "eval_every": 2,
            },
            "search": {
                "space": {
                    "model.attention": {"choice": MECHANISMS},
                    "model.dropout": {"low": 0.0, "high": 0.5},
                    "training.seed": {"choice": [0, 1, 2]},
                },
                "sampler": {"name": "random"},
                "stopping": {"name": "none"},
                "trials": trials or max(len(accuracies), 1),
                "enqueue": [{"model.dropout": 0.1, "training.seed": 0} | point for point in queue],
            },
            "storage": str(tmp_path / "studies"),
        }
        spec = parse_study(values, "test")
        opened = begin_study(spec)
        outbox = Outbox(spec.folder / "outbox")
        facts = {} if examples is None else {"validation_examples": examples}
        outbox.append(StudyStarted(study=name, spec=values, facts=facts))
        controller = StudyController(spec, opened.optuna, opened.storage, outbox)
        controller.reconcile()
        for accuracy in accuracies:
            assignment = controller.next_trial()
            metrics = {"val_accuracy": accuracy, "val_loss": 1.0}
            controller.receive(
                assignment.number, TrialUpdate(step=steps, metrics=metrics, outcome="complete"), {}
            )
        outbox.close()
        return opened

    return study


def write_measurement(
    study: Study, number: int, speed: float, device: str = "a machine", memory: float | None = None
) -> None:
    """Write the measurement that `confirm` or `compare --measure` writes for the configuration of a trial."""
    spec = study.spec.trial(study.trials()[number].params)
    efficiency = predicted_profile(spec) | {
        "train_sequences_per_second": speed,
        "inference_sequences_per_second": 10 * speed,
    }
    if memory is not None:
        efficiency[MEMORY] = memory
    folder = efficiency_folder(study)
    folder.mkdir(exist_ok=True)
    facts = {"costs": cost_spec(spec), "threads": 1, "device": device, "efficiency": efficiency}
    (folder / f"{efficiency_key(spec)}.json").write_text(json.dumps(facts))


def row(comparison, mechanism: str) -> Row:
    (found,) = [row for row in comparison.rows if row.mechanism == mechanism]
    return found


def test_several_seeds_give_an_interval_and_a_single_training_gives_none(make) -> None:
    queue = [{"model.attention": "softmax", "training.seed": seed} for seed in range(3)]
    study = make("one", [0.30, 0.32, 0.31, 0.40], [*queue, {"model.attention": "proxyformer"}])
    found = compare([study])
    softmax, proxyformer = row(found, "softmax"), row(found, "proxyformer")
    assert (softmax.by_seed, softmax.basis) == ({0: 0.30, 1: 0.32, 2: 0.31}, "seeds of the study")
    assert softmax.accuracy == pytest.approx(0.31)
    low, high = softmax.interval
    assert 0.28 < low < 0.30 < 0.32 < high < 0.34
    assert (len(proxyformer.by_seed), proxyformer.interval, proxyformer.basis) == (1, None, "one training")
    assert any("1 of 2 accuracies are from a single training" in note for note in found.notes)


def test_ablation_has_a_row_per_configuration_with_paired_differences(make) -> None:
    arms = [{"model.dropout": dropout, "training.seed": seed} for dropout in (0.1, 0.2) for seed in range(3)]
    queue = [{"model.attention": "proxyformer"} | arm for arm in arms]
    found = compare([make("ablation", [0.30, 0.40, 0.50, 0.32, 0.41, 0.53], queue)])
    base, other = found.rows
    assert (base.configuration, other.configuration) == ("dropout 0.1", "dropout 0.2")
    assert base.difference is None
    difference = other.difference
    assert (difference.to, difference.seeds) == ("proxyformer, dropout 0.1 of study ablation", 3)
    assert difference.mean == pytest.approx(0.02)
    low, high = difference.interval
    assert 0 < 0.02 - low == pytest.approx(high - 0.02), "pairing removes the effect of the seed"
    assert high - low < 0.2 * (base.interval[1] - base.interval[0])
    table = as_markdown(found)
    assert "| dropout 0.2 |" in table
    assert f"+0.0200 ({low:+.4f} to {high:+.4f})" in table
    assert any("differences are to proxyformer, dropout 0.1" in note for note in found.notes)


def test_difference_is_none_without_shared_seeds(make) -> None:
    first = make("first", [0.3], [{"model.attention": "softmax", "training.seed": 0}])
    second = make("second", [0.4], [{"model.attention": "proxyformer", "training.seed": 1}])
    assert [row.difference for row in compare([first, second]).rows] == [None, None]


def test_best_search_value_is_marked_as_optimistic(make) -> None:
    queue = [{"model.attention": "softmax", "model.dropout": value} for value in (0.1, 0.2)]
    study = make("one", [0.30, 0.33, 0.31], [*queue, {"model.attention": "softmax"}], enqueued=2)
    (best,) = [row for row in compare([study]).rows if row.mechanism == "softmax"]
    assert best.basis.startswith("best search value of ")
    assert best.basis.endswith(": optimistic")
    assert (best.accuracy, best.trial) == (0.33, 1)


def test_evaluation_error_is_reported_and_sets_the_accuracy_axis(make) -> None:
    queue = [{"model.attention": "softmax", "training.seed": seed} for seed in range(2)]
    study = make("one", [0.30, 0.301], queue, examples=400)
    found = compare([study])
    (softmax,) = found.rows
    error = math.sqrt(softmax.accuracy * (1 - softmax.accuracy) / 400)
    assert softmax.evaluation_error == pytest.approx(error)
    assert f"{softmax.accuracy:.4f} ± {error:.4f}" in as_markdown(found)
    low, high = accuracy_range(found.rows)
    assert high - low == pytest.approx(8 * error), "a difference of 0.001 does not fill the plot"
    (thin, _) = figure(found.rows).data
    assert thin.error_y.array == pytest.approx((1.96 * error,))


def test_ratios_are_relative_to_softmax_on_the_same_task_and_device(make) -> None:
    ours = make("ours", [0.3], [{"model.attention": "proxyformer"}])
    theirs = make("theirs", [0.2], [{"model.attention": "softmax"}])
    other_length = make("other", [0.2], [{"model.attention": "proxyformer"}], train_examples=100)
    write_measurement(ours, 0, 50.0)
    write_measurement(theirs, 0, 200.0)
    found = compare([ours, theirs, other_length])
    (proxyformer,) = [row for row in found.rows if row.study == "ours"]
    assert (proxyformer.train_to_softmax, proxyformer.inference_to_softmax) == (0.25, 0.25)
    spec = {study.name: study.spec.trial(study.trials()[0].params) for study in (ours, theirs)}
    expected = predicted_profile(spec["ours"])[MEMORY] / predicted_profile(spec["theirs"])[MEMORY]
    assert proxyformer.memory_to_softmax == pytest.approx(expected)
    assert proxyformer.memory_is == "predicted"
    (without_softmax,) = [row for row in found.rows if row.study == "other"]
    assert without_softmax.memory_to_softmax is None
    assert any("(train_examples 100): no ratios" in note for note in found.notes)
    assert any("no throughput was measured in other" in note for note in found.notes)


def test_measurements_on_different_devices_give_no_ratio(make) -> None:
    ours = make("ours", [0.3], [{"model.attention": "proxyformer"}])
    theirs = make("theirs", [0.2], [{"model.attention": "softmax"}])
    write_measurement(ours, 0, 50.0, "a GPU", memory=7.0)
    write_measurement(theirs, 0, 200.0)
    proxyformer = row(compare([ours, theirs]), "proxyformer")
    assert (proxyformer.memory_mib, proxyformer.memory_is) == (7.0, "measured")
    assert proxyformer.device == "a GPU, 1 thread"
    assert proxyformer.train_to_softmax is proxyformer.memory_to_softmax is None


def test_different_budgets_are_reported(make) -> None:
    studies = [
        make("long", [0.3], [{"model.attention": "proxyformer"}], steps=6),
        make("short", [0.2], [{"model.attention": "softmax"}]),
    ]
    (note,) = [note for note in compare(studies).notes if "budgets differ" in note]
    assert "4 steps of 8: short; 6 steps of 8: long" in note


def test_confirmed_mean_takes_precedence_over_the_search_value(make) -> None:
    queue = [{"model.attention": "proxyformer"}, {"model.attention": "softmax"}]
    study = make("one", [0.5, 0.4], queue, trials=4)
    candidate = Candidate(
        trial=0, params=study.trials()[0].params, search_value=0.5, seeds=(1, 2), values=(0.4, 0.42), mean=0.41,
        interval=(0.3, 0.5), eliminated_after=None, reason="", metrics={"val_accuracy": 0.41}, efficiency={},
    )  # fmt: skip
    result = TestResult(
        trial=0, seeds=(1, 2), values=(0.39, 0.41), mean=0.4, interval=None, num_examples=9, openings=2,
        opened_at="now", opened_by="me",
    )  # fmt: skip
    confirmation = Confirmation(
        study="one", objective="val_accuracy", direction="maximize", seeds=(1, 2), candidates=(candidate,), winner=0,
        tied=(0,), gap=0.09, retrainings=2, test=result,
    )  # fmt: skip
    study.optuna.set_user_attr(CONFIRMATION, confirmation.to_json())
    found = compare([study])
    confirmed = row(found, "proxyformer")
    assert (confirmed.accuracy, confirmed.interval) == (0.41, (0.3, 0.5))
    assert confirmed.by_seed == {1: 0.4, 2: 0.42}
    assert (confirmed.basis, confirmed.test_accuracy) == ("confirmed mean over 2 fresh seeds", 0.4)
    assert confirmed.test_openings == 2
    assert row(found, "softmax").basis == "one training"
    assert "0.4000 (opened 2 times)" in as_markdown(found)


def test_published_values_are_separate_and_name_their_source(make) -> None:
    queue = [{"model.attention": "softmax"}, {"model.attention": "proxyformer"}]
    study = make("one", [0.3, 0.35], queue)
    found = compare([study])
    assert published_tables(["listops-mini"]) == []
    tables = published_tables(["listops", "text (max_length 1000)"])
    assert all(head == ("method", "listops", "text") for _, head, _ in tables)
    assert ("softmax", "37.10", "65.02") in tables[0][2]
    assert all(len(values) == len(TASKS) for table in PUBLISHED for values in table.rows.values())
    ours, _, others = as_markdown(found).partition("## Published by others")
    assert "Xiong" not in ours
    assert "its table of accuracies was not available" in others
    page = as_html(found)
    assert page.index("one training") < page.index("Published by others")
    assert "plotly" in page


def test_plot_has_a_point_per_mechanism_and_cost_and_error_bars_for_seeds(make) -> None:
    queue = [{"model.attention": "softmax", "training.seed": seed} for seed in (0, 1)]
    study = make("one", [0.3, 0.32, 0.35], [*queue, {"model.attention": "proxyformer"}])
    rows = compare([study]).rows
    assert {trace.name for trace in figure(rows).data if trace.name} == {"softmax", "proxyformer"}
    assert len(figure(rows).data) == 4, "memory only: no throughput was measured"
    write_measurement(study, 0, 5.0)
    write_measurement(study, 2, 7.0)
    points = [trace for trace in figure(compare([study]).rows).data if trace.name]
    assert len(points) == 4
    assert {point.name: point.error_y.visible for point in points} == {"softmax": True, "proxyformer": False}


def test_study_without_finished_trials_is_rejected(make) -> None:
    with pytest.raises(InputError, match="no trial that reached the full budget yet"):
        compare([make("empty", [], [{}])])


@pytest.mark.usefixtures("quick_measurements")
def test_compare_command_measures_plots_and_keeps_existing_files(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make("one", [0.3, 0.35], [{"model.attention": "softmax"}, {"model.attention": "proxyformer"}])
    monkeypatch.chdir(tmp_path)

    def proxytune(*arguments: str) -> str:
        cli.main(["compare", *arguments, "--storage", str(study.spec.storage)], standalone_mode=False)
        return capsys.readouterr().out

    rows = json.loads(proxytune("one", "--measure", "--out", "table.html", "--json"))["rows"]
    assert all(row["train_per_second"] > 0 for row in rows)
    assert [row["train_to_softmax"] for row in rows if row["mechanism"] == "softmax"] == [1.0]
    assert "Accuracy against cost" in Path("table.html").read_text()
    text = proxytune("one")
    assert "measured by proxytune" in text
    assert "(x) is relative to softmax of study one" in text
    for arguments, words in [
        (("one", "--out", "table.html"), "--out table.html: name a new file"),
        (("one", "--out", "t.pdf"), r"ends in \.html or \.md"),
        (("none",), "studies there: one"),
        (("one", "one"), "named twice"),
    ]:
        with pytest.raises(InputError, match=words):
            proxytune(*arguments)
