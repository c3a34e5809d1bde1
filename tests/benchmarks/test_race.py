"""The race benchmark: tables of training curves, agreement with the real search, invalid input, statistics."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from scipy import stats

from proxytune.tuning.errors import InputError
from proxytune.tuning.journal.bank import open_banked
from proxytune.tuning.report.history import read_history
from proxytune.tuning.store.database import open_storage
from proxytune.tuning.studies import BANK, banked_studies
from tests.benchmarks import cli
from tests.benchmarks.race import statistics
from tests.benchmarks.race.baselines import OneEpoch
from tests.benchmarks.race.controlled import Controlled, common_start, table_spec
from tests.benchmarks.race.lcbench import surrogate_tasks
from tests.benchmarks.race.methods import METHODS, ONE_EPOCH, OURS, STARTS, STOCK, Run, race, warm
from tests.benchmarks.race.records import read_records, run_missing
from tests.benchmarks.race.run import make_groups
from tests.benchmarks.race.simulate import RULES, Outcome, Race
from tests.benchmarks.race.tables import Hartmann, RecordedTask, recorded_tasks


@pytest.fixture(scope="module")
def recorded() -> RecordedTask:
    return next(task for task in recorded_tasks() if task.name == "listops-mini-earlier")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A folder of surrogates with two tasks over 3 epochs.

    Task `known` has accuracy 100 x (rate + 0.1 epoch) and 10 seconds per epoch; task `empty` is NaN.
    """
    folder = tmp_path / "table"
    folder.mkdir()
    weights = np.zeros((2, 6), np.float32)
    weights[0, 0], weights[0, 1], weights[1, 1] = 10, 10, 50
    known = np.zeros((2, 6), np.float32)
    known[1] = np.nan
    constants = [
        onnx.numpy_helper.from_array(weights, "weights"),
        onnx.numpy_helper.from_array(known, "known"),
    ]
    axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
    nodes = [
        helper.make_node("MatMul", ["x_cont", "weights"], ["product"]),
        helper.make_node("Squeeze", ["x_cat", "axes"], ["code"]),
        helper.make_node("Gather", ["known", "code"], ["offset"]),
        helper.make_node("Add", ["product", "offset"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes, "surrogate",
        [
            helper.make_tensor_value_info("x_cat", TensorProto.INT32, ["n", 1]),
            helper.make_tensor_value_info("x_cont", TensorProto.FLOAT, ["n", 2]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 6])],
        [*constants, axes],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "surrogate.onnx")
    about = {
        "tasks": {"known": 0, "empty": 1},
        "fidelity": {"epoch": {"low": 1, "high": 3}},
        "space": {"rate": {"low": 0.0, "high": 1.0}},
    }
    (folder / "about.json").write_text(json.dumps(about))
    return folder


def test_recorded_configuration_gets_its_own_curve(recorded: RecordedTask) -> None:
    for params, curve in zip(recorded.configurations, recorded.curves, strict=True):
        assert recorded.curve(params) is curve


def test_recorded_curves_cover_all_steps_with_increasing_times(recorded: RecordedTask) -> None:
    assert recorded.steps == (200, 400, 600, 800, 1000, 1200)
    assert all(len(curve.values) == 6 for curve in recorded.curves if curve.complete)
    assert all(sorted(curve.times) == list(curve.times) for curve in recorded.curves)
    assert 0.1 < recorded.worst < recorded.best < 1


def test_hartmann_has_its_known_optimum_and_lower_values_at_low_fidelity() -> None:
    optimum = {"x0": 0.114614, "x1": 0.555649, "x2": 0.852547}
    curve = Hartmann(3, "bad").curve(optimum)
    assert curve.values[-1] == pytest.approx(3.86278, abs=1e-4)
    assert max(curve.values[:50]) < 3.86
    optimum_6d = dict(
        zip(
            (f"x{i}" for i in range(6)),
            (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573),
            strict=True,
        )
    )
    assert Hartmann(6, "good").curve(optimum_6d).values[-1] == pytest.approx(3.32237, abs=1e-4)


def test_surrogate_task_returns_the_curves_of_its_model(table: Path) -> None:
    (task,) = surrogate_tasks(table, ["known"])
    assert (task.steps, task.training_seconds) == ((1, 2, 3), pytest.approx(30))
    assert task.best == pytest.approx(0.8, abs=1e-3)
    curve = task.curve({"rate": 0.5})
    assert [curve.value(report) for report in range(3)] == pytest.approx([0.35, 0.45, 0.55])
    assert [curve.seconds(report) for report in range(3)] == pytest.approx([10, 20, 30])


@pytest.mark.parametrize(
    ("damage", "tasks", "message"),
    [
        (lambda folder: (folder / "surrogate.onnx").unlink(), [], "surrogate.onnx is missing"),
        (lambda folder: (folder / "about.json").unlink(), [], "0 JSON files, expected one"),
        (lambda folder: (folder / "about.json").write_text("{}"), [], "not the description of a table"),
        (
            lambda folder: (folder / "surrogate.onnx").write_bytes(b"?"),
            [],
            "not a model that onnxruntime can load",
        ),
        (lambda folder: None, ["other"], "no task other in the table; available: known, empty"),
        (lambda folder: None, ["empty"], "task empty: the surrogate returns NaN for it"),
    ],
)
def test_invalid_table_is_reported_in_one_line(table: Path, damage, tasks: list[str], message: str) -> None:
    damage(table)
    with pytest.raises(InputError, match=message) as caught:
        surrogate_tasks(table, tasks)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_folder_or_tasks_without_one_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        make_groups(tmp_path / "nowhere", [])
    with pytest.raises(InputError, match="--tasks needs the folder of a table"):
        make_groups(None, ["3945"])
    with pytest.raises(InputError, match="no task 3945 in the table; available: listops-mini-earlier"):
        make_groups(BANK, ["3945"])


def test_warm_start_runs_the_best_configurations_of_the_source_first(recorded: RecordedTask) -> None:
    source = "text-512-proxyformer"
    method = STARTS[warm(source)](recorded, 0, [])
    with open_banked(source) as outbox:
        trials = read_history(outbox).trials.values()
    best = sorted(
        (trial for trial in trials if trial.outcome == "complete"),
        key=lambda trial: -trial.last["val_accuracy"],
    )
    asked = method.ask()
    assert asked is not None
    # num_proxies is a list of five numbers in this task, so only configurations with one of them can run first
    usable = [trial.params for trial in best if trial.params["model.num_proxies"] in (8, 16, 32, 64, 128)]
    assert asked[1] == {key: usable[0][key] for key in recorded.domains}


def test_warm_start_command_compares_every_source_with_a_cold_start(tmp_path: Path) -> None:
    arguments = ["warm-start", "--quick", "--records", str(tmp_path / "races.jsonl"), "--out", str(tmp_path)]
    result = CliRunner(catch_exceptions=False).invoke(cli.bench, arguments)
    assert result.exit_code == 0, result.output
    (path,) = tmp_path.glob("warm-start-*.json")
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    ((task, sources),) = json.loads(path.read_text())["result"]["less cold"].items()
    assert sources.keys() == banked_studies().keys() - {task}
    assert all(len(entry["points"]) == 2 and entry["seeds"] == 2 for entry in sources.values())


@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("gp")])
def test_race_is_deterministic_and_regret_of_trained_never_increases(
    recorded: RecordedTask, method: str
) -> None:
    first, second = (race(recorded, Run(4, 1, recorded.name, method), (1.25, 2.0)) for _ in range(2))
    assert first.regrets == second.regrets
    for regrets in first.regrets.values():
        assert all(0 <= regret <= recorded.best - recorded.worst for regret in regrets)
    assert first.regrets["trained"] == sorted(first.regrets["trained"], reverse=True)


def test_race_with_sqlite_storage_equals_race_in_memory(recorded: RecordedTask, tmp_path: Path) -> None:
    spec = table_spec(recorded, "curve", "asha", 0, common_start(recorded, 0, 5))
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}", create=True)
    methods = [Controlled(spec, recorded.steps), Controlled(spec, recorded.steps, storage)]
    in_memory, sqlite = (
        Race(recorded, method, 2).run([1.5 * recorded.training_seconds]) for method in methods
    )
    assert in_memory.regrets == sqlite.regrets
    assert in_memory.asks == sqlite.asks > 5
    for method in methods:
        assert method.study.best_value == recorded.best - in_memory.regrets["trained"][-1]


def test_one_epoch_trains_the_best_configuration_of_the_first_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Hartmann(3, "good")
    method = OneEpoch(task, 0, common_start(task, 0, 5))
    ask, asked = method.ask, list[Mapping[str, Any]]()

    def recorded_ask() -> tuple[int, Mapping[str, Any]]:
        number, params = ask()
        asked.append(params)
        return number, params

    monkeypatch.setattr(method, "ask", recorded_ask)
    Race(task, method, 1).run([50.0])
    trained, leader = method.finals(150.0, 1)
    _, final = max((task.curve(params).values[0], task.curve(params).values[-1]) for params in asked)
    assert trained == leader == final


def test_interrupted_race_runs_only_the_missing_runs(recorded: RecordedTask, tmp_path: Path) -> None:
    path, budgets = tmp_path / "races.jsonl", (0.5, 1.0)
    runs = [Run(1, seed, recorded.name, "random") for seed in range(3)]
    lines: list[str] = []
    run_missing(path, {recorded.name: recorded}, runs[:2], budgets, lines.append)
    path.write_text(path.read_text()[:-20])  # as if killed while writing the second run
    outcomes = run_missing(path, {recorded.name: recorded}, runs, budgets, lines.append)
    assert len(lines) == 4
    assert outcomes.keys() == set(runs)
    assert read_records(path, (1.0,))[runs[0]].regrets["trained"] == outcomes[runs[0]].regrets["trained"][1:]
    assert read_records(path, (4.0,)) == {}


def make_records(values: dict[str, list[list[float]]]) -> dict[Run, Outcome]:
    """Records with one budget; `values` are the regrets by method, task and seed."""
    return {
        Run(1, seed, f"task{task}", method): Outcome({rule: [regret] for rule in RULES}, 1, 0.0)
        for method, tasks in values.items()
        for task, seeds in enumerate(tasks)
        for seed, regret in enumerate(seeds)
    }


def test_interval_of_one_task_equals_scipys_bootstrap() -> None:
    sample = np.random.default_rng(1).normal(size=30)
    interval = statistics.interval([sample])
    expected = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=statistics.NUM_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert interval == pytest.approx({"mean": sample.mean(), "low": expected.low, "high": expected.high})


def test_interval_over_tasks_excludes_the_variance_between_tasks() -> None:
    """Its width is that of the mean of independent means, although the tasks differ widely."""
    generator = np.random.default_rng(2)
    samples = [generator.normal(loc=10.0 * task, size=40) for task in range(4)]
    interval = statistics.interval(samples)
    error = np.sqrt(sum(sample.var() / len(sample) for sample in samples)) / len(samples)
    assert (interval["high"] - interval["low"]) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_interval_with_one_seed_per_task_resamples_tasks() -> None:
    means = np.random.default_rng(3).normal(size=12)
    assert statistics.interval([np.array([mean]) for mean in means]) == statistics.interval([means])


def test_differences_are_paired_by_task_and_seed() -> None:
    records = make_records({"a": [[0.1, 0.4], [0.9]], "b": [[0.2, 0.4], [0.5, 0.7]]})
    paired = statistics.paired(records, "trained", 1, "a", "b")
    assert paired is not None
    assert (paired["tasks"], paired["seeds"]) == (2, 1)
    assert paired["points"][0]["mean"] == pytest.approx((-0.05 + 0.4) / 2)
    assert statistics.paired(records, "trained", 1, "a", "c") is None


def test_mean_ranks_and_critical_difference_equal_scipy_and_demsar() -> None:
    records = make_records(
        {"a": [[0.1], [0.3], [0.1]], "b": [[0.2], [0.3], [0.2]], "c": [[0.3], [0.1], [0.2]]}
    )
    ranks, num_tasks = statistics.mean_ranks(records, "trained", 1, ["a", "b", "c"], 0)
    table = np.array([[0.1, 0.2, 0.3], [0.3, 0.3, 0.1], [0.1, 0.2, 0.2]])
    assert num_tasks == 3
    assert list(ranks.values()) == pytest.approx(stats.rankdata(table, axis=1).mean(axis=0))
    # Demsar 2006, table 5: q = 1.960 for two classifiers, 2.728 for five
    assert statistics.critical_difference(2, 6) == pytest.approx(1.960 * np.sqrt(2 * 3 / 36), abs=1e-3)
    assert statistics.critical_difference(5, 10) == pytest.approx(2.728 * np.sqrt(5 * 6 / 60), abs=1e-3)


def test_race_command_saves_its_result_and_shows_finished_races(table: Path, tmp_path: Path) -> None:
    def bench(*arguments: object) -> str:
        result = CliRunner(catch_exceptions=False).invoke(cli.bench, ["race", *map(str, arguments)])
        return result.output

    common = ("--table", table, "--tasks", "known", "--records", tmp_path / "races.jsonl", "--out", tmp_path)
    bench(*common, "--quick")
    (path,) = tmp_path.glob("race-*.json")
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    result = json.loads(path.read_text())["result"]
    block = result["groups"]["table"]["rules"]["trained"]["2"]
    assert block["regret"].keys() == {OURS, STOCK}
    assert len(block["less stock"][OURS]["points"]) == len(result["budgets"]) == 2
    before = (tmp_path / "races.jsonl").read_text()
    assert OURS in bench(*common, "--workers", "2", "--budgets", "1.25,1.5", "--finished")
    assert (tmp_path / "races.jsonl").read_text() == before
    assert ONE_EPOCH not in block["regret"]
