"""The fault table: generated from results, and naming only tests that exist."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table", Path(__file__).with_name("table.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_of_the_same_fault_are_summed(table: ModuleType, tmp_path: Path) -> None:
    row = {
        "fault": "x",
        "injected": 2,
        "lost": 0,
        "duplicated": 1,
        "seconds": 1.5,
        "result": "y",
        "date": "d",
        "cpus": 2,
        "load": 3.0,
    }
    (tmp_path / "a.json").write_text(json.dumps(row))
    (tmp_path / "b.json").write_text(json.dumps(row | {"seconds": 7.2}))
    (tmp_path / "c.json").write_text(json.dumps(row | {"fault": "z", "seconds": None}))
    text = table.table(table.rows(tmp_path), [])
    assert "| x | 4 | 0 | 2 | 7 | y |\n| z | 2 | 0 | 1 |  | y |\n" in text


def test_soak_runs_are_listed_by_seed_and_their_counts_summed(table: ModuleType) -> None:
    soak = {
        "seed": 7,
        "minutes": 1.0,
        "date": "d",
        "load": 2.0,
        "injected": {"driver_killed": 3, "disk_full": 2},
        "checked": {"trials": 10, "points": 30},
        "problems": [],
    }
    other = soak | {"seed": 8, "injected": {"disk_full": 4, "worker_killed": 1}, "problems": ["lost"]}
    text = table.table([], [soak, other])
    assert "| d | 7 | 2 | 5 | 1 | 2 | 10 | 30 | 0 |\n| d | 8 | 2 | 5 | 1 | 2 | 10 | 30 | 1 |\n" in text
    assert "| driver killed | 3 |\n| disk full | 6 |\n| worker killed | 1 |\n" in text


def test_every_test_named_in_the_table_exists(table: ModuleType) -> None:
    for name in table.ELSEWHERE.values():
        path, _, function = name.partition("::")
        assert f"def {function}(" in (REPOSITORY / path).read_text(), name


def test_document_matches_the_generator(table: ModuleType) -> None:
    document, _, soak = (REPOSITORY / "docs" / "FAULTS.md").read_text().partition("\n## Soak")
    soaks = [json.loads(line) for line in table.SOAKS.read_text().splitlines()]
    assert "\n## Soak" + soak == table.soak_section(soaks)
    assert document.startswith(table.HEAD)
    lines = re.findall(r"^\| .* \| (\d+) \| (\d+) \| (\d+) \| \d* \| .* \|$", document, re.MULTILINE)
    assert len(lines) >= 8
    for _, lost, duplicated in lines:
        assert (lost, duplicated) == ("0", "0")
    for name in table.ELSEWHERE.values():
        assert name in document
