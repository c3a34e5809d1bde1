"""Verification of an export: changes are detected and named, also with recomputed checksums."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxytune.tuning.commands.verify import verify
from proxytune.tuning.errors import InputError, ProxytuneError
from proxytune.tuning.export.differences import differing
from proxytune.tuning.export.sums import write_sums
from proxytune.tuning.export.verify import verify_export
from proxytune.tuning.spec.yaml_file import as_yaml, read_yaml

STRUCTURED = ("config.yaml", "metrics.json", "model.json", "provenance.json", "sweep.json")


def read(path: Path) -> Any:
    return read_yaml(path) if path.suffix == ".yaml" else json.loads(path.read_text())


def write(path: Path, value: Any) -> None:
    path.write_text(as_yaml(value) if path.suffix == ".yaml" else json.dumps(value))


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [leaf for key, inner in items for leaf in leaves(inner, (*path, key))] or [path]


def changed(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case None:
            return 1
    return ["new"] if isinstance(value, list) else {"new": 1}


def set_at(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def get_at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def test_unchanged_export_is_intact(exported: Path) -> None:
    assert verify_export(exported) == []
    result = CliRunner().invoke(verify, [str(exported), "--json"])
    assert json.loads(result.stdout) == {"folder": str(exported), "intact": True, "problems": []}


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_changed_value_is_reported_with_its_file(exported: Path, data: st.DataObject) -> None:
    path = exported / data.draw(st.sampled_from(STRUCTURED))
    before = path.read_bytes()
    tree = read(path)
    leaf = data.draw(st.sampled_from(leaves(tree)))
    set_at(tree, leaf, changed(get_at(tree, leaf)))
    write(path, tree)
    try:
        problems = verify_export(exported)
    finally:
        path.write_bytes(before)
    assert any(line.startswith(f"{path.name} has sha256") for line in problems), problems


@pytest.mark.parametrize(
    "name", ["card.md", "model.json", "weights.safetensors", "SHA256SUMS", "config.yaml"]
)
def test_changed_byte_is_reported_with_its_file(exported: Path, name: str) -> None:
    content = (exported / name).read_bytes()
    for position in (0, len(content) // 2, len(content) - 2):
        flipped = bytes([content[position] ^ 1])
        (exported / name).write_bytes(content[:position] + flipped + content[position + 1 :])
        problems = verify_export(exported)
        assert any(name in line for line in problems), position
    (exported / name).write_bytes(content)
    assert verify_export(exported) == []


def test_missing_added_and_linked_files_are_reported(exported: Path) -> None:
    (exported / "card.md").unlink()
    (exported / "notes.txt").write_text("notes")
    os.replace(exported / "model.json", exported.parent / "elsewhere.json")
    (exported / "model.json").symlink_to(exported.parent / "elsewhere.json")
    problems = verify_export(exported)
    assert "card.md is missing" in problems
    assert "model.json is missing" in problems
    assert "notes.txt is not in SHA256SUMS" in problems


def winner_of(exported: Path) -> int:
    return int(read(exported / "sweep.json")["selection"]["trial"])


def other_complete(exported: Path) -> int:
    rows = read(exported / "sweep.json")["trials"]
    return next(
        row["trial"] for row in rows if row["outcome"] == "complete" and row["trial"] != winner_of(exported)
    )


FORGERIES: dict[str, tuple[str, Callable[[Any, Path], None], str]] = {
    "another configuration": (
        "config.yaml",
        lambda v, _: v["model"].update(num_heads=1),
        "config.yaml: model.num_heads is 1",
    ),
    "another learning rate": (
        "config.yaml",
        lambda v, _: v["training"].update(learning_rate=0.5),
        "config.yaml: training.learning_rate is 0.5",
    ),
    "a better score": (
        "metrics.json",
        lambda v, _: v.update(val_accuracy=0.99),
        "metrics.json: val_accuracy is 0.99",
    ),
    "another model": (
        "model.json",
        lambda v, _: v["model"].update(num_heads=1),
        "model.json: model.num_heads is 1",
    ),
    "another size": (
        "model.json",
        lambda v, _: v["model"].update(num_classes=2),
        "weights.safetensors: head",
    ),
    "a newer format": ("model.json", lambda v, _: v.update(format=2), "has format 2"),
    "another trial": ("provenance.json", lambda v, _: v.update(trial=4), "provenance.json: trial is 4"),
    "other data": (
        "provenance.json",
        lambda v, _: v["data"].update(fingerprint="0" * 64),
        "provenance.json: data.fingerprint is '0000",
    ),
    "another seed": ("provenance.json", lambda v, _: v.update(seed=9), "provenance.json: seed is 9"),
    "another winner": (
        "sweep.json",
        lambda v, folder: v["selection"].update(trial=other_complete(folder)),
        "sweep.json: selection.trial is",
    ),
    "another rule": (
        "sweep.json",
        lambda v, _: v["selection"].update(text="the best of all"),
        "sweep.json: selection.text",
    ),
    "a better value of another trial": (
        "sweep.json",
        lambda v, folder: [
            v["trials"][other_complete(folder)][part].update(val_accuracy=0.99)
            for part in ("metrics", "values")
        ],
        "sweep.json: selection.trial is",
    ),
    "a value without its metric": (
        "sweep.json",
        lambda v, folder: v["trials"][other_complete(folder)]["values"].update(val_accuracy=0.01),
        "values.val_accuracy is 0.01",
    ),
    "a satisfied constraint": (
        "sweep.json",
        lambda v, _: v["trials"][0]["violations"].update(train_memory_mib_per_sequence=-1.0),
        "trials[0].violations.train_memory_mib_per_sequence is -1.0",
    ),
    "a smaller budget": (
        "sweep.json",
        lambda v, _: v["budget"].update(spent_trials=2),
        "sweep.json: budget.spent_trials is 2",
    ),
    "a removed trial": ("sweep.json", lambda v, _: v["trials"].pop(1), "sweep.json: trials[1].trial is 2"),
    "another sampler's seed": (
        "sweep.json",
        lambda v, _: v["seeds"].update(sampler=3),
        "sweep.json: seeds.sampler is 3",
    ),
    "no trials": ("sweep.json", lambda v, _: v.update(trials="none"), "search check failed"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forgery_with_recomputed_checksums_is_detected(exported: Path, forgery: str) -> None:
    name, forge, expected = FORGERIES[forgery]
    value = read(exported / name)
    forge(value, exported)
    write(exported / name, value)
    write_sums(exported)
    problems = verify_export(exported)
    assert any(expected in line for line in problems), problems


def test_verification_does_not_require_the_data(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROXYTUNE_CACHE", str(tmp_path / "nothing"))
    assert verify_export(exported) == []


def test_verify_command_reports_every_problem_and_rejects_other_folders(
    exported: Path, tmp_path: Path
) -> None:
    (exported / "metrics.json").write_text("{}")
    result = CliRunner().invoke(verify, [str(exported), "--json"])
    assert isinstance(result.exception, ProxytuneError)
    assert result.exception.exit_code == 1
    output = json.loads(result.stdout)
    assert not output["intact"]
    assert any("metrics.json" in line for line in output["problems"])
    with pytest.raises(InputError, match="no such folder"):
        verify_export(tmp_path / "nowhere")
    assert verify_export(tmp_path)[0].startswith(f"{tmp_path} is no export folder")


def test_differing_yields_the_path_and_both_values() -> None:
    first = {"a": [1, {"b": 2}], "c": None, "d": True}
    second = {"a": [1, {"b": 3}, 4], "c": None, "d": 1}
    assert list(differing(first, second)) == [("a[1].b", 2, 3), ("a[2]", "absent", 4), ("d", True, 1)]
