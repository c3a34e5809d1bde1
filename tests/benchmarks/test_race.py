"""The race of searches: tables, agreement with the real search, errors, statistics."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from scipy import stats

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.study_files import read_study
from proxytune.tuning.store.database import open_storage
from tests.benchmarks import cli
from tests.benchmarks.race import run, statistics
from tests.benchmarks.race.baselines import OneEpoch
from tests.benchmarks.race.controlled import Controlled, common_start, table_spec
from tests.benchmarks.race.lcbench import surrogate_tasks
from tests.benchmarks.race.methods import METHODS, ONE_EPOCH, OURS, STOCK, Run, race
from tests.benchmarks.race.records import read_records, run_missing
from tests.benchmarks.race.simulate import RULES, Outcome, Race
from tests.benchmarks.race.tables import Hartmann, RecordedTask


@pytest.fixture(scope="module")
def own() -> RecordedTask:
    return RecordedTask(run.CURVES, read_study(run.STUDY).search.space)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two tasks over 3 epochs: accuracy 100 x (rate + 0.1 epoch), 10 seconds per epoch; `empty` is NaN."""
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


def test_the_nearest_configuration_of_a_recorded_one_is_itself(own: RecordedTask) -> None:
    for params, curve in zip(own.configurations, own.curves, strict=True):
        assert own.curve(params) is curve


def test_the_recorded_table_is_of_whole_trainings(own: RecordedTask) -> None:
    assert own.steps == (200, 400, 600, 800, 1000, 1200)
    assert all(len(curve.values) == 6 for curve in own.curves if curve.complete)
    assert all(sorted(curve.times) == list(curve.times) for curve in own.curves)
    assert 0.1 < own.worst < own.best < 1


def test_hartmann_has_its_known_optimum_and_is_biased_below_the_full_fidelity() -> None:
    optimum = {"x0": 0.114614, "x1": 0.555649, "x2": 0.852547}
    curve = Hartmann(3, "bad").curve(optimum)
    assert curve.values[-1] == pytest.approx(3.86278, abs=1e-4)
    assert max(curve.values[:50]) < 3.86
    six = dict(
        zip(
            (f"x{i}" for i in range(6)),
            (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573),
            strict=True,
        )
    )
    assert Hartmann(6, "good").curve(six).values[-1] == pytest.approx(3.32237, abs=1e-4)


def test_a_folder_of_surrogates_is_a_table(table: Path) -> None:
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
def test_an_invalid_table_is_reported_in_one_line(
    table: Path, damage, tasks: list[str], message: str
) -> None:
    damage(table)
    with pytest.raises(InputError, match=message) as caught:
        surrogate_tasks(table, tasks)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_folder_or_table_of_curves_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        run.make_groups(tmp_path / "nowhere", [])
    with pytest.raises(InputError, match="recorded curves not found"):
        run.make_groups(None, [], tmp_path / "nothing.jsonl")
    with pytest.raises(InputError, match="--tasks needs the folder of a table"):
        run.make_groups(None, ["3945"])


@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("gp")])
def test_a_race_is_the_same_again_and_never_loses_what_was_trained(own: RecordedTask, method: str) -> None:
    one, two = (race(own, Run(4, 1, own.name, method), (1.25, 2.0)) for _ in range(2))
    assert one.regrets == two.regrets
    for regrets in one.regrets.values():
        assert all(0 <= regret <= own.best - own.worst for regret in regrets)
    assert one.regrets["trained"] == sorted(one.regrets["trained"], reverse=True)


def test_the_storage_of_a_real_study_gives_the_same_race(own: RecordedTask, tmp_path: Path) -> None:
    spec = table_spec(own, "curve", "asha", 0, common_start(own, 0, 5))
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}", create=True)
    methods = [Controlled(spec, own.steps), Controlled(spec, own.steps, storage)]
    one, two = (Race(own, method, 2).run([1.5 * own.training_seconds]) for method in methods)
    assert one.regrets == two.regrets
    assert one.asks == two.asks > 5
    (best, other) = (method.study.best_value for method in methods)
    assert best == other == own.best - one.regrets["trained"][-1]


def test_one_epoch_trains_the_best_of_the_first_epoch() -> None:
    task = Hartmann(3, "good")
    method = OneEpoch(task, 0, common_start(task, 0, 5))
    Race(task, method, 1).run([50.0])
    trained, leader = method.finals(150.0, 1)
    first = max(
        (task.curve(params).values[0], task.curve(params).values[-1]) for params in method._params.values()
    )
    assert trained == leader == first[1]


def test_an_interrupted_race_resumes(own: RecordedTask, tmp_path: Path) -> None:
    path, budgets = tmp_path / "races.jsonl", (0.5, 1.0)
    runs = [Run(1, seed, own.name, "random") for seed in range(3)]
    lines: list[str] = []
    run_missing(path, {own.name: own}, runs[:2], budgets, lines.append)
    path.write_text(path.read_text()[:-20])  # killed while writing the second race
    found = run_missing(path, {own.name: own}, runs, budgets, lines.append)
    assert len(lines) == 4
    assert found.keys() == set(runs)
    assert read_records(path, (1.0,))[runs[0]].regrets["trained"] == found[runs[0]].regrets["trained"][1:]
    assert read_records(path, (4.0,)) == {}


def records(values: dict[str, list[list[float]]]) -> dict[Run, Outcome]:
    """Records from regrets at one budget: method, then tasks, then seeds."""
    return {
        Run(1, seed, f"task{task}", method): Outcome({rule: [regret] for rule in RULES}, 1, 0.0)
        for method, tasks in values.items()
        for task, seeds in enumerate(tasks)
        for seed, regret in enumerate(seeds)
    }


def test_the_interval_of_one_task_is_scipys() -> None:
    sample = np.random.default_rng(1).normal(size=30)
    found = statistics.interval([sample])
    theirs = stats.bootstrap(
        (sample,),
        np.mean,
        n_resamples=statistics.NUM_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found == pytest.approx({"mean": sample.mean(), "low": theirs.low, "high": theirs.high})


def test_the_interval_over_tasks_keeps_them_all() -> None:
    """The width is that of a mean of independent means, although the tasks differ widely."""
    generator = np.random.default_rng(2)
    samples = [generator.normal(loc=10.0 * task, size=40) for task in range(4)]
    found = statistics.interval(samples)
    error = np.sqrt(sum(sample.var() / len(sample) for sample in samples)) / len(samples)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_with_one_seed_the_interval_is_over_tasks() -> None:
    means = np.random.default_rng(3).normal(size=12)
    assert statistics.interval([np.array([mean]) for mean in means]) == statistics.interval([means])


def test_differences_are_paired_by_task_and_seed() -> None:
    held = records({"a": [[0.1, 0.4], [0.9]], "b": [[0.2, 0.4], [0.5, 0.7]]})
    found = statistics.paired(held, "trained", 1, "a", "b")
    assert found is not None
    assert (found["tasks"], found["seeds"]) == (2, 1)
    assert found["points"][0]["mean"] == pytest.approx((-0.05 + 0.4) / 2)
    assert statistics.paired(held, "trained", 1, "a", "c") is None


def test_ranks_and_the_critical_difference_are_those_of_the_literature() -> None:
    held = records({"a": [[0.1], [0.3], [0.1]], "b": [[0.2], [0.3], [0.2]], "c": [[0.3], [0.1], [0.2]]})
    ranks, num_tasks = statistics.mean_ranks(held, "trained", 1, ["a", "b", "c"], 0)
    table = np.array([[0.1, 0.2, 0.3], [0.3, 0.3, 0.1], [0.1, 0.2, 0.2]])
    assert num_tasks == 3
    assert list(ranks.values()) == pytest.approx(stats.rankdata(table, axis=1).mean(axis=0))
    # Demsar 2006, table 5: q = 1.960 for two classifiers, 2.728 for five
    assert statistics.critical_difference(2, 6) == pytest.approx(1.960 * np.sqrt(2 * 3 / 36), abs=1e-3)
    assert statistics.critical_difference(5, 10) == pytest.approx(2.728 * np.sqrt(5 * 6 / 60), abs=1e-3)


def test_the_command_saves_a_dated_result_and_resumes(table: Path, tmp_path: Path) -> None:
    def bench(*arguments: object) -> str:
        done = CliRunner(catch_exceptions=False).invoke(cli.bench, ["race", *map(str, arguments)])
        return done.output

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
