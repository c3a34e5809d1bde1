"""`plan`: predictions that can be computed by hand, measured costs, and rejected input."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from proxytune.tuning.errors import InputError
from proxytune.tuning.plan.costs import Cost, Costs, Point, predicted_costs, star
from proxytune.tuning.plan.meter import measure
from proxytune.tuning.plan.plan import make_plan
from proxytune.tuning.spec.study_spec import StudySpec
from proxytune.tuning.spec.yaml_file import as_yaml
from tests.commandline import CommandResult

EQUAL = Costs([Point({})], [Cost(step=0.1, evaluation=1.0, start=2.0, memory_mib=50.0, **dict.fromkeys(
    ("parameters", "flops_per_sequence", "train_memory_mib_per_sequence"), 1.0))])  # fmt: skip


def test_time_without_stopping_is_the_sum_of_full_rounds(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec("search.stopping=none", "search.sampler=random", "search.trials=5")
    plan = make_plan(spec, EQUAL, slots=2, start=10.0)
    training = 2.0 + 30 * 0.1 + 3 * 1.0  # 30 steps, an evaluation every 10
    assert plan.seconds.low == plan.seconds.high == pytest.approx(10 + 3 * training)
    assert plan.slot_hours.median == pytest.approx(2 * (10 + 3 * training) / 3600)
    assert plan.steps.median == 150
    assert plan.trials[30].low == 5
    assert plan.busy.median == pytest.approx(5 * training / (2 * (10 + 3 * training)))


def test_rungs_stop_part_of_the_trials_and_a_plan_is_reproducible(
    make_spec: Callable[..., StudySpec],
) -> None:
    spec = make_spec("search.sampler=random", "search.trials=9")
    plan, again = (make_plan(spec, EQUAL, slots=2, start=0.0) for _ in range(2))
    assert (plan.seconds, plan.trials) == (again.seconds, again.trials)
    assert plan.trials[10].low == plan.trials[10].high == 9
    assert 1 <= plan.trials[30].low < plan.trials[30].high < 9
    assert plan.seconds.low < plan.seconds.median < plan.seconds.high


def test_max_seconds_ends_the_study_in_virtual_time(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec(
        "search.stopping=none", "search.trials=1000", "search.max_seconds=100", "search.sampler=random"
    )
    plan = make_plan(spec, EQUAL, slots=2, start=10.0)
    assert 100 <= plan.seconds.low <= plan.seconds.high <= 104  # a trial ends at its next report


def test_cost_is_interpolated_between_measured_points(
    make_spec: Callable[..., StudySpec],
) -> None:
    spec = make_spec(
        "search.space.model.num_proxies={low: 2, high: 8}",
        "search.space.training.batch_size=[4, 8]",
        "search.enqueue=[]",
    )
    points = star(spec)
    assert [(point.key, point.value) for point in points[1:]] == [
        *(("model.num_proxies", value) for value in (2, 5, 8)),
        *(("training.batch_size", value) for value in (4, 8)),
    ]  # not dropout: its value does not change the cost
    known = predicted_costs(spec, points, 0.2)
    costs = Costs(points, known)
    assert costs.of({}) == known[0]
    assert costs.of({"model.num_proxies": 5, "model.dropout": 0.2}).step == pytest.approx(known[2].step)
    low, between, high = (costs.of({"model.num_proxies": value}).step for value in (2, 3, 5))
    assert between == pytest.approx(low + (high - low) / 3)
    both = costs.of({"model.num_proxies": 8, "training.batch_size": 4})
    assert both.step == pytest.approx(known[3].step * known[4].step / known[0].step)


def test_measure_trains_every_point(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec("search.space={model.num_proxies: [2, 8]}", "search.enqueue=[]")
    points = star(spec)
    measured = measure(spec, points, slots=1)
    assert len(measured.costs) == len(points) == 3
    assert all(0 < cost.step < cost.evaluation < 60 for cost in measured.costs)
    assert measured.process_start > min(cost.start for cost in measured.costs) > 0


def test_space_without_a_feasible_configuration_is_rejected(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec("search.constraints={parameters: '<= 0'}", "search.sampler=random")
    with pytest.raises(InputError, match="satisfies them; nothing would be trained"):
        make_plan(spec, EQUAL, slots=2, start=0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slots", "0"], "0 is not in the range x>=1"),
        (["--step-seconds", "0"], "0.0 is not in the range x>0"),
        (["--set", "resources.cpu=4096"], "resources.cpu: 4096 is more than this machine has"),
        (["--address", "nowhere"], "--address 'nowhere' must be local, auto, or HOST:PORT"),
    ],
)
def test_invalid_arguments_are_rejected(
    make_spec: Callable[..., StudySpec],
    call: Callable[..., CommandResult],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(as_yaml(make_spec().model_dump(mode="json")))
    called = call("plan", path, *arguments, cwd=tmp_path)
    assert called.code == 2
    assert message in called.stderr.splitlines()[-1]


def test_plan_command_prints_a_table_or_json(
    make_spec: Callable[..., StudySpec], call: Callable[..., CommandResult], tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(as_yaml(make_spec("search.sampler=random").model_dump(mode="json")))
    command = ("plan", path, "--step-seconds", "0.1")
    shown = call(*command, "--slots", "3", cwd=tmp_path).stdout
    assert "small on 3 slots, 30 draws" in shown
    assert "trials to step 30" in shown
    found = json.loads(call(*command, "--json", cwd=tmp_path).stdout)
    assert found["seconds"]["low"] <= found["seconds"]["median"] <= found["seconds"]["high"]
    assert found["trials"]["10"]["median"] == 4
