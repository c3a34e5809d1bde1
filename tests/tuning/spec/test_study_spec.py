"""Study files: accepted forms, and error messages of one line per mistake."""

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.constraints import parse_constraint, violation
from proxytune.tuning.spec.protocol import with_protocol
from proxytune.tuning.spec.rungs import expected_steps
from proxytune.tuning.spec.study_files import read_study
from proxytune.tuning.spec.study_spec import parse_study
from proxytune.tuning.spec.validation import SpecError
from proxytune.tuning.spec.yaml_file import as_yaml, override, parse_yaml, read_yaml
from proxytune.tuning.studies import shipped_studies

SMALL = {
    "name": "small",
    "task": {"name": "listops-mini"},
    "training": {"steps": 30, "warmup_steps": 3, "batch_size": 8, "learning_rate": 1e-3, "eval_every": 10},
    "search": {"space": {"model.dropout": {"low": 0.0, "high": 0.3}}, "trials": 4},
}


def small(*assignments: str) -> dict[str, Any]:
    return override(SMALL, assignments)


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_shipped_studies_are_valid_and_start_with_the_setting_of_the_paper(name: str) -> None:
    spec = read_study(name)
    assert spec.name == name
    if "model.contrastive_temperature" not in spec.search.space or not spec.search.enqueue:
        return  # a comparison of mechanisms, each with the setting of its paper, or a task that is not in the paper
    first = spec.search.enqueue[0]
    proxies = 64 if name == "recall" else 128  # its sequences are short
    assert (first["model.num_proxies"], first["model.contrastive_temperature"]) == (proxies, 0.07)
    assert first["model.dropout"] == 0.1


def test_proxy_learning_rate_without_proxies_is_rejected() -> None:
    values = small("model.attention=softmax", "training.proxy_learning_rate_multiple=2")
    with pytest.raises(InputError, match=r"proxy_learning_rate_multiple is 2.* with attention 'softmax'"):
        parse_study(values, "test")


def test_grid_follows_conditions_and_varies_its_first_key_slowest() -> None:
    space = (
        "search.space={training.seed: {choice: [0, 1]}, model.attention: {choice: [softmax, nystromformer]}, "
        "model.conv_kernel_size: {choice: [0, 35], when: {model.attention: nystromformer}}}"
    )
    spec = parse_study(
        small(space, "model.num_landmarks=8", "search.sampler.name=grid", "search.trials=6"), "test"
    )
    one_seed = [("softmax", None), ("nystromformer", 0), ("nystromformer", 35)]
    points = [
        (point["training.seed"], point["model.attention"], point.get("model.conv_kernel_size"))
        for point in spec.space.grid(spec.fixed)
    ]
    assert points == [(seed, *rest) for seed in (0, 1) for rest in one_seed]
    with pytest.raises(InputError, match="trials: 7 exceeds the 6 points of the grid"):
        parse_study(
            small(space, "model.num_landmarks=8", "search.sampler.name=grid", "search.trials=7"), "test"
        )


def test_resolved_spec_lists_every_setting_and_is_equivalent() -> None:
    spec = parse_study(SMALL, "test")
    stored = spec.model_dump(mode="json")
    assert stored["model"]["num_proxies"] == 128
    assert stored["training"]["seed"] == 0
    assert parse_study(stored, "stored") == spec
    assert parse_study(parse_yaml(as_yaml(stored), where="yaml"), "yaml") == spec


def test_digest_does_not_depend_on_the_location_of_the_data(tmp_path: Path) -> None:
    def digest(folder: str) -> str:
        files = {split: str(tmp_path / folder / f"{split}.tsv") for split in ("train", "validation", "test")}
        return parse_study(small("task.name=listops", f"task.files={files}"), "test").digest

    assert digest("here") == digest("there") == parse_study(small("task.name=listops"), "test").digest
    assert digest("here") != parse_study(small("task.name=text"), "test").digest


RESERVED_NAMES = ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm", "mlartifacts", "a.b", "x.confirm.confirm")
"""Names of files beside the studies, and similar names."""
WITH_PASSWORD = (
    "postgresql+psycopg://me:secret@host/db",
    "postgresql+psycopg://me:sec/secret@host/db",
    "postgresql+psycopg://me:sec@secret@host/db",
    "postgresql+psycopg://host/db?password=secret",
    "postgresql+psycopg://host/db?%70assword=secret",
    "postgresql+psycopg://host/db?sslmode=require&sslpassword=secret",
)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("serach={}", ["serach", "search"]),
        ("model.num_proxy=3", ["model.num_proxy", "num_proxies"]),
        ("model.num_proxies=0", ["num_proxies", "0"]),
        ("model.num_proxies=many", ["model.num_proxies", "many"]),
        ("model.attention=softmaxx", ["softmaxx", "softmax"]),
        ("model.num_heads=3", ["num_heads", "3", "64"]),
        ("model.contrastive_temperature=0", ["contrastive_temperature", "0"]),
        ("training.stepz=1", ["training.stepz", "steps"]),
        ("training.seed=-1", ["training.seed", "-1"]),
        ("training.batch_order=random", ["training.batch_order", "random", "uniform"]),
        ("training.final_weights=first", ["training.final_weights", "first", "best"]),
        ("training.learning_rate=fast", ["training.learning_rate", "fast"]),
        ("task.name=listop", ["listop", "listops"]),
        ("task.size=3", ["size", "listops-mini"]),
        ("search.trials=0", ["search.trials", "0"]),
        ("search.trials=1e400", ["search.trials"]),
        ("search.space={}", ["search.space"]),
        ("search.space.model.dropout={low: 0.5, high: 0.1}", ["model.dropout", "0.5", "0.1"]),
        ("search.space.model.dropout={low: 0, high: 0.1, log: true}", ["model.dropout", "log"]),
        ("search.space.model.dropout={low: 0, high: 1.5}", ["model.dropout", "1.5"]),
        ("search.space.model.dropout={low: .nan, high: 0.1}", ["model.dropout", "nan"]),
        ("search.space.model.dropout={chioce: [0.1]}", ["chioce", "choice"]),
        ("search.space.model.dropuot={choice: [0.1]}", ["model.dropuot", "model.dropout"]),
        ("search.space.model.num_proxies={low: 1.5, high: 8}", ["num_proxies", "1.5"]),
        ("search.objectives={val_acuracy: maximize}", ["val_acuracy", "val_accuracy"]),
        ("search.objectives={val_accuracy: max}", ["val_accuracy", "max"]),
        ('search.constraints={val_loss: "< 3"}', ["val_loss", "< 3"]),
        ('search.constraints={memory: "<= 3"}', ["memory"]),
        ("search.space.model.dropout={choice: []}", ["model.dropout", "empty"]),
        ("search.space.model.dropout={choice: [0.1], low: 0, high: 1}", ["model.dropout", "not both"]),
        (
            "search.space.model.dropout={low: 0, high: 0.2, when: {model.atention: softmax}}",
            ["model.attention"],
        ),
        (
            "search.space.model.dropout={low: 0, high: 0.2, when: {model.attention: softmax}}",
            ["model.dropout", "proxyformer in every trial", "never"],
        ),
        (
            "search.space={model.attention: {choice: [softmax]}, "
            "model.dropout: {low: 0, high: 0.2, when: {model.attention: linformer}}}",
            ["linformer", "outside the domain of model.attention"],
        ),
        (
            "search.space={model.dropout: {low: 0, high: 0.2, when: {model.num_heads: 2}}, "
            "model.num_heads: {choice: [1, 2], when: {model.dropout: 0.1}}}",
            ["cycle"],
        ),
        ('search.constraints={val_los: "<= 3"}', ["val_los", "val_loss"]),
        ("search.sampler.name=grid", ["model.dropout", "grid", "choice", "low and high"]),
        ("search.warm_start={study: x, tpo: 3}", ["search.warm_start.tpo", "top"]),
        ("search.warm_start={study: x, top: -1}", ["search.warm_start.top", "-1"]),
        ("search.warm_start={study: x, database: 'postgresql://me:secret@host/db'}", ["warm_start.database"]),
        ("search.enqueue=[{model.dropout: 0.9}]", ["enqueue[0]", "0.9"]),
        ("search.enqueue=[{model.num_heads: 2}]", ["enqueue[0]", "model.num_heads"]),
        ("search.sampler.name=tpee", ["search.sampler.name", "tpee"]),
        ("search.sampler.name=grid", ["model.dropout", "choice"]),
        ("search.stopping.min_steps=30", ["min_steps", "30"]),
        ("resources.cpu=0", ["resources.cpu", "0"]),
        ("resources.gpu=lots", ["resources.gpu", "lots"]),
        ("name=../up", ["name", "../up"]),
        *((f"name={name}", ["name", "take another name"]) for name in RESERVED_NAMES),
        *((f"database={url}", ["password"]) for url in WITH_PASSWORD),
        *((f"tracking.uri={url}", ["tracking.uri", "PASSWORD"]) for url in WITH_PASSWORD),
        ("tracking.uri=http://me:se/cret@host:5000", ["http://***@host:5000", "MLFLOW_TRACKING_PASSWORD"]),
        ("task={name: listops, train_examples: 1000000000000}", ["train_examples", "from 1 to 100,000,000"]),
        ("tracking.uri=mlruns", ["tracking.uri", "mlruns", "sqlite:///"]),
    ],
)
def test_invalid_study_is_rejected_in_one_line_with_key_and_rule(assignment: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse_study(small(assignment), "test")
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "assignment", ["training.steps", "=3", "training.steps.more=3", "name=[1", "name=*a"]
)
def test_unreadable_override_is_rejected(assignment: str) -> None:
    with pytest.raises(InputError, match=r"training|name|=3"):
        parse_study(small(assignment), "test")


def test_value_between_the_steps_of_a_range_is_rejected() -> None:
    space = "search.space={model.num_proxies: {low: 8, high: 32, step: 8}, model.dropout: {low: 0.1, high: 0.4, step: 0.1}}"
    parse_study(small(space, "search.enqueue=[{model.num_proxies: 24, model.dropout: 0.3}]"), "test")
    for wrong in ("model.num_proxies: 20", "model.dropout: 0.25"):
        with pytest.raises(InputError, match="outside its domain"):
            parse_study(small(space, f"search.enqueue=[{{{wrong}}}]"), "test")


def test_every_mistake_is_reported_on_its_own_line() -> None:
    wrong = small("serach={}", "model.num_proxy=3", "training.stepz=1", "search.trials=0", "task.name=listop")
    with pytest.raises(SpecError) as caught:
        parse_study(wrong, "my.yaml")
    keys = {line.partition(": ")[0] for line in caught.value.lines}
    assert keys == {"serach", "model.num_proxy", "training.stepz", "search.trials", "task"}
    assert all(line.startswith("my.yaml: ") for line in str(caught.value).splitlines())
    with pytest.raises(SpecError) as caught:  # and mistakes in combinations of keys
        parse_study(
            small("search.sampler=grid", "search.stopping.min_steps=30", "database=p://a:b@c"), "test"
        )
    assert [line.partition(": ")[0] for line in caught.value.lines] == [
        "search.stopping.min_steps",
        "search.space.model.dropout",
        "database",
    ]


def test_short_forms_are_expanded() -> None:
    short = parse_study(
        small("search.sampler=random", "search.stopping=none", "search.space.model.num_proxies=[8, 16]"),
        "test",
    )
    assert (short.search.sampler.name, short.search.stopping.name) == ("random", "none")
    assert short.search.space["model.num_proxies"].choice == (8, 16)
    assert parse_study(small("task=recall"), "test").task.name == "recall"
    longer = small("search.sampler=tpe", "search.sampler.seed=4")
    assert longer["search"]["sampler"] == {"name": "tpe", "seed": 4}


@pytest.mark.parametrize(
    ("assignment", "hint"),
    [
        ("pruner=asha", "use search.stopping"),
        ("search.pruner=asha", "use search.stopping"),
        ("search.n_trials=3", "use search.trials"),
        ("search.space.model.dropout={values: [0.1]}", "use choice"),
        ("search.space.model.dropout={min: 0, max: 1}", "use low"),
        ("search.space.dropout=[0.1]", "did you mean model.dropout?"),
        ("search.space.model.dropout=0.1", "write [8, 16, 32]"),
        ("training.lr=0.1", "use training.learning_rate"),
    ],
)
def test_key_of_another_tool_gets_a_hint(assignment: str, hint: str) -> None:
    with pytest.raises(SpecError, match=re.escape(hint)):
        parse_study(small(assignment), "test")


def test_task_protocol_sets_defaults_that_the_file_overrides() -> None:
    def training(**given: int) -> dict[str, Any]:
        return parse_study(SMALL | {"task": {"name": "listops"}, "training": given}, "test").training

    protocol = training()
    assert [protocol[key] for key in ("steps", "warmup_steps", "batch_size", "learning_rate")] == [
        *(5000, 1000, 32, 1e-4)
    ]
    shorter = training(steps=100, batch_size=8)
    assert [shorter[key] for key in ("steps", "warmup_steps", "batch_size", "eval_every")] == [100, 20, 8, 5]
    assert training(steps=5)["warmup_steps"] == 0  # OneCycleLR cannot rise within one step
    for name, path in shipped_studies().items():  # shipped studies write the protocol in full
        task, written = read_yaml(path)["task"]["name"], read_yaml(path)["training"]
        if name == "recall":
            continue  # the demo, shortened to two minutes
        same = {key: value for key, value in with_protocol(task, {}).items() if key != "eval_every"}
        assert {key: written[key] for key in same} == same, name


def test_integer_range_can_be_logarithmic() -> None:
    space = "search.space={model.num_proxies: {low: 8, high: 128, log: true}}"
    spec = parse_study(small(space, "search.enqueue=[{model.num_proxies: 100}]"), "test")
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=0))
    drawn = [spec.space.suggest(study.ask(), {})["model.num_proxies"] for _ in range(40)]
    assert all(isinstance(value, int) and 8 <= value <= 128 for value in drawn)
    assert sum(value < 32 for value in drawn) > 10  # half of the logarithmic range, a fifth of the linear one
    with pytest.raises(SpecError, match=r"num_proxies=12\.5 is outside its domain"):
        parse_study(small(space, "search.enqueue=[{model.num_proxies: 12.5}]"), "test")


@pytest.mark.parametrize(
    ("stopping", "expected"),
    [
        ("none", 9 * 90),
        ("{name: asha, min_steps: 10}", 9 * 10 + 4 * 20 + 2 * 60),  # floor(n / 3) + 1 of n continue
        ("{name: curve, min_steps: 10}", 9 * (10 + 0.7 * 20 + 0.49 * 60)),  # 70 % continue
        ("{name: median, min_steps: 10}", 9 * 90),
        ("{name: hyperband, min_steps: 30}", 4.5 * 30 + 2 * 60 + 4.5 * 90),
    ],
)
def test_expected_steps_follow_the_rungs(stopping: str, expected: float) -> None:
    spec = parse_study(small("training.steps=90", "search.trials=9", f"search.stopping={stopping}"), "test")
    assert expected_steps(spec.search.stopping, spec.rung_steps(), 90, 9) == pytest.approx(expected)


def test_missing_key_is_named() -> None:
    with pytest.raises(InputError, match=r"search\.trials: is missing"):
        parse_study({**SMALL, "search": {"space": SMALL["search"]["space"]}}, "test")


@given(st.floats(min_value=-1e6, max_value=1e6), st.floats(min_value=-1e6, max_value=1e6))
def test_violation_is_zero_exactly_within_the_bound(bound: float, value: float) -> None:
    most, least = (parse_constraint("val_loss", f"{sign} {bound!r}") for sign in ("<=", ">="))
    assert (violation([most], {"val_loss": value}) == 0) == (value <= bound)
    assert (violation([least], {"val_loss": value}) == 0) == (value >= bound)
    assert violation([most, least], {}) == 0


def test_rungs_grow_by_the_factor_and_end_below_the_budget() -> None:
    spec = parse_study(small("training.steps=100", "search.stopping.min_steps=10"), "test")
    assert spec.rung_steps() == (10, 30, 90)
    assert parse_study(small("search.stopping.name=none"), "test").rung_steps() == ()


def test_unknown_study_lists_the_shipped_studies() -> None:
    with pytest.raises(InputError, match="listops-mini"):
        read_study("listops-min")
