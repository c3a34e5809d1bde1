"""The shipped studies of the paper: its ablations, and one study per task of the comparison."""

import pytest

from proxytune.datasets import DataError
from proxytune.tuning.compare.published import TASKS
from proxytune.tuning.spec.study_files import read_study
from proxytune.tuning.studies import shipped_studies
from proxytune.tuning.trial.data import prepare_task

PAPER = sorted(name for name in shipped_studies() if name.startswith("paper-"))
MECHANISMS = {"softmax", "proxyformer", "nystromformer", "linformer", "performer", "reformer", "bigbird"}


@pytest.mark.parametrize("name", ["ablation-listops", "ablation-recall"])
def test_ablations_add_the_parts_in_the_order_of_the_paper(name: str) -> None:
    spec = read_study(name)
    arms = [spec.trial(point).model for point in spec.space.grid(spec.fixed) if point["training.seed"] == 0]
    parts = [(arm["contrastive"], arm["injection"], arm["decomposed_dropout"]) for arm in arms]
    assert parts[:3] == [
        ("none", "none", "none"), ("kernel", "none", "none"), ("kernel", "segment", "none")
    ]  # fmt: skip
    assert set(parts[3:]) == {("kernel", "segment", "column")}
    assert {arm["num_proxies"] for arm in arms[:3]} < {arm["num_proxies"] for arm in arms[3:]}


@pytest.mark.parametrize("name", PAPER)
def test_paper_studies_train_every_mechanism_at_the_budget_of_the_protocol(name: str) -> None:
    spec = read_study(name)
    budgets = {"listops": 5000, "text": 20_000, "retrieval": 30_000, "image": 35_000, "pathfinder": 62_400}
    task = name.removeprefix("paper-")
    assert (spec.name, spec.task.name, spec.training["steps"]) == (name, task, budgets[task])
    assert spec.rung_steps() == ()
    evaluated = {"listops": 50, "text": 500, "retrieval": 300, "image": 175, "pathfinder": 312}
    assert spec.training["eval_every"] == evaluated[task]
    assert (spec.training["batch_order"], spec.training["final_weights"]) == ("uniform", "best")
    grid = spec.space.grid(spec.fixed)
    points = [(p["model.attention"], p.get("model.conv_kernel_size", 0), p["training.seed"]) for p in grid]
    assert len(set(points)) == len(points) == spec.search.trials == 27
    assert {attention for attention, _, _ in points} == MECHANISMS
    for attention in ("proxyformer", "nystromformer"):
        assert {point for point in points if point[0] == attention} == {
            (attention, kernel, seed) for kernel in (0, 35) for seed in (0, 1, 2)
        }
    for point in grid:
        assert spec.trial(point).model["attention_precision"] == "fp32"
    if task in ("text", "retrieval", "image"):
        with pytest.raises(DataError, match="root"):
            prepare_task(spec.task)


def test_every_task_of_the_comparison_has_a_study() -> None:
    assert [name.removeprefix("paper-") for name in PAPER] == sorted(TASKS)
