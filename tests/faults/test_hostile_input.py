"""Hostile study files, and exports to paths that exist."""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec import yaml_file
from proxytune.tuning.spec.study_files import read_study
from proxytune.tuning.spec.yaml_file import MAX_NODES
from tests.commandline import proxytune

GOOD = """
name: small
task: {name: listops-mini, train_examples: 256}
model: {num_layers: 1, embedding_dim: 16, feedforward_dim: 16, num_proxies: 4}
training: {steps: 8, warmup_steps: 2, batch_size: 8, learning_rate: 1e-3, eval_every: 4}
search: {space: {model.dropout: {low: 0.0, high: 0.3}}, stopping: {name: none}, trials: 2}
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(8)
)
HOSTILE: dict[str, str | bytes] = {
    "alias bomb": BOMB,
    "merge key bomb": "a: &a {b: 1}\nc: {<<: *a, <<: *a}\n",
    "duplicate anchor": "&a name: x\n&a task: y\n",
    "sequences nested 500,000 deep": "[" * 500_000,
    "mappings nested 5,000 deep": "{a: " * 5_000,
    "two megabytes": "name: " + "x" * 2_000_000,
    "python object": "name: !!python/object/apply:os.system [touch pwned]\n",
    "python name": "name: !!python/name:os.system\n",
    "custom tag": "name: !danger x\n",
    "binary tag": "name: !!binary aGFsbG8=\n",
    "two documents": GOOD + "---\n" + GOOD,
    "duplicate key": GOOD + "name: other\n",
    "duplicate key below": changed("steps: 8,", "steps: 8, steps: 9,"),
    "tab as indentation": "name:\n\tx: 1\n",
    "NUL": "name: a\0b\n",
    "escape sequence": 'name: "a\\x1b[31mred"\n' + GOOD.partition("\n")[2].partition("\n")[2],
    "UTF-16": GOOD.encode("utf-16"),
    "latin-1": GOOD.replace("small", "gr\u00fc\u00df").encode("latin-1"),
    "byte order mark in the middle": changed("name: small", "name: sm\ufeffall"),
    "empty": "",
    "a number": "42",
    "a string": "hello",
    "null": "~",
    "name with parent folders": changed("name: small", "name: ../../etc/cron.d/x"),
    "name absolute": changed("name: small", "name: /etc/passwd"),
    "name in another script": changed("name: small", "name: маленький"),
    "name right to left": changed("name: small", "name: 'a\u202eb'"),
    "name of 10,000 characters": changed("name: small", f"name: {'a' * 10_000}"),
    "name with newline": changed("name: small", 'name: "a\\nb"'),
    "name a number": changed("name: small", "name: 010"),
    "name a boolean": changed("name: small", "name: true"),
    "steps negative": changed("steps: 8", "steps: -8"),
    "steps zero": changed("steps: 8", "steps: 0"),
    "steps a fraction": changed("steps: 8", "steps: 8.5"),
    "steps NaN": changed("steps: 8", "steps: .nan"),
    "steps a date": changed("steps: 8", "steps: 2026-11-24"),
    "learning rate infinite": changed("learning_rate: 1e-3", "learning_rate: .inf"),
    "learning rate 1e400": changed("learning_rate: 1e-3", "learning_rate: 1e400"),
    "learning rate with 100,000 digits": changed("learning_rate: 1e-3", f"learning_rate: {'9' * 100_000}"),
    "trials a billion digits": changed("trials: 2", f"trials: {'9' * 5_000}"),
    "more than a billion steps": changed("steps: 8", "steps: 1000000001"),
    "a billion layers": changed("num_layers: 1", "num_layers: 1000000000"),
    "10^18 weights": changed("embedding_dim: 16", "embedding_dim: 1000000"),
    "a batch of 10^18": changed("batch_size: 8", "batch_size: 1000000000000000000"),
    "a trillion proxies": changed("num_proxies: 4", "num_proxies: 1000000000000"),
    "layers searched up to a billion": changed(
        "model.dropout: {low: 0.0, high: 0.3}", "model.num_layers: {low: 1, high: 1000000000, log: true}"
    ),
    "low above high": changed("low: 0.0, high: 0.3", "low: 0.5, high: 0.3"),
    "low NaN": changed("low: 0.0", "low: .nan"),
    "high infinite": changed("high: 0.3", "high: .inf"),
    "logarithm of zero": changed("high: 0.3", "high: 0.3, log: true"),
    "empty choice": changed("{low: 0.0, high: 0.3}", "{choice: []}"),
    "choice of a mapping": changed("{low: 0.0, high: 0.3}", "{choice: [{a: 1}]}"),
    "infinite step": changed("{low: 0.0, high: 0.3}", "{low: 0.0, high: 0.3, step: .inf}"),
    "infinite step of an integer": changed("model.dropout: {", "model.num_proxies: {step: .inf, "),
    "bound of 400 digits": changed("{low: 0.0, high: 0.3}", "{low: 0, high: 1" + "0" * 400 + "}"),
    "explicit tag of another type": changed("trials: 2", "trials: !!bool maybe"),
    "explicit tag without a value": changed("trials: 2", 'trials: !!int ""'),
    "unknown key": changed("trials: 2", "trails: 2"),
    "key not a string": changed("trials: 2", "1: 2"),
    "key a list": "? [a, b]\n: 1\n",
    "space over the task's path": changed("model.dropout: {", "task.root: {"),
    "tracking to a file": GOOD + "tracking: {uri: 'file:///etc'}\n",
    "password in the database": GOOD + "database: postgresql+psycopg://a:secret@h/x\n",
}


def defects(name: str, content: str | bytes, folder: Path) -> list[str]:
    """The defects of how a hostile study file is rejected; empty if there are none."""
    path = folder / "study.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    began = time.process_time()
    try:
        read_study(str(path))
        return [f"{name}: accepted"]
    except InputError as error:
        message = str(error)
    except Exception as error:
        return [f"{name}: {error!r}"]
    found = {
        "takes more than 60 s": time.process_time() - began > 60,  # CPU time of this process
        "lines without the file's name": not all(line.startswith(str(path)) for line in message.split("\n")),
        "more than 10 lines": message.count("\n") > 9,
        "more than 12,000 characters": len(message) > 12_000,
        "control characters": any(ord(character) < 32 for character in message.replace("\n", "")),
        "exposes the password": "secret" in message,
        "creates files": [entry.name for entry in folder.iterdir()] != ["study.yaml"],
    }
    return [f"{name}: {defect}" for defect, is_found in found.items() if is_found]


def test_hostile_study_files_are_rejected_with_one_line_per_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Callable[..., None]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(GOOD)
    assert read_study("study.yaml").name == "small", "the unchanged file must be valid"
    found = [defect for name, content in HOSTILE.items() for defect in defects(name, content, tmp_path)]
    assert found == []
    record(
        "hostile study file",
        injected=len(HOSTILE),
        lost=0,
        duplicated=0,
        seconds=None,
        result="each is rejected with one line per error",
    )


@pytest.mark.parametrize("limit", [1000, pytest.param(MAX_NODES, marks=pytest.mark.slow)])
def test_study_files_with_too_many_values_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(yaml_file, "MAX_NODES", limit)
    keys = "\n".join(f"k{n}: 1" for n in range(limit // 2 + 1))
    brackets = "{" + "[]," * 3 * limit + "}"
    for name, content in (("many keys", keys), ("one long line of brackets", brackets)):
        assert defects(name, content, tmp_path) == []
        with pytest.raises(InputError, match=f"more than {limit:,} values"):
            read_study(str(tmp_path / "study.yaml"))


PIECES = (
    *("&a ", "*a", "!!python/object:os.system ", "!x ", "[", "]", "{", "}", ": ", "- ", "? ", "<<: ", "# ", ", "),
    *("\t", "\n", "  ", "\0", "\x1b[31m", "\u2028", "\ufeff", "'", '"', "|", ">", "---\n", "...\n", "%YAML 9.9\n"),
    *("1e999", ".nan", "-.inf", "~", "true", "0x10", "1_000", "9" * 400, "2026-11-24", "model.dropout", "${HOME}"),
)  # fmt: skip


def read(content: bytes, folder: Path) -> bool:
    """Whether a study file of these bytes is valid. The error of an invalid file has one line per key, without control
    characters."""
    path = folder / "study.yaml"
    path.write_bytes(content)
    try:
        read_study(str(path))
        return True
    except InputError as error:
        lines = str(error).split("\n")
        assert len(lines) <= 10, "more than one line per key"
        assert all(line.startswith(str(path)) for line in lines)
        assert not any(ord(character) < 32 for line in lines for character in line), lines
        return False


WILD = st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), st.sampled_from(PIECES) | st.text(max_size=8))
ANOTHER_DIGIT = st.tuples(
    st.sampled_from([place for place, character in enumerate(GOOD) if character in "123456789"]),
    st.just(1),
    st.sampled_from("123456789"),
)
EDITS = st.lists(WILD | ANOTHER_DIGIT, min_size=1, max_size=4)


@pytest.mark.parametrize("num_examples", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_edited_study_files_load_or_fail_with_one_line_per_key(tmp_path: Path, num_examples: int) -> None:
    outcomes: Counter[bool] = Counter()

    @settings(max_examples=num_examples)
    @given(EDITS)
    def edit(edits: list[tuple[int, int, str]]) -> None:
        text = GOOD
        for start, removed, put in edits:
            text = text[:start] + put + text[start + removed :]
        outcomes[read(text.encode("utf-8", "surrogatepass"), tmp_path)] += 1

    edit()
    assert outcomes[True] > 10, "too few of the edited files are valid"
    assert outcomes[False] > 10, "too few of the edited files are invalid"


@pytest.mark.parametrize("num_examples", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_random_bytes_are_rejected_with_one_line_per_key(tmp_path: Path, num_examples: int) -> None:
    @settings(max_examples=num_examples)
    @given(st.binary(max_size=200))
    def is_rejected(content: bytes) -> None:
        assert not read(content, tmp_path)

    is_rejected()


def link_to_a_folder(path: Path) -> None:
    (path.parent / "target").mkdir()
    (path.parent / "target" / "kept").write_text("kept")
    path.symlink_to("target")


def file(path: Path) -> None:
    path.write_text("kept")


def folder(path: Path) -> None:
    path.mkdir()
    (path / "kept").write_text("kept")


def empty_folder(path: Path) -> None:
    path.mkdir()


def dangling_link(path: Path) -> None:
    path.symlink_to("missing")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def snapshot(root: Path) -> dict[str, Any]:
    """The target of each link, the text of each file and the mode of everything else."""
    return {
        str(path.relative_to(root)): os.readlink(path)
        if path.is_symlink()
        else (path.read_text() if path.is_file() else path.stat().st_mode)
        for path in sorted(root.rglob("*"))
    }


EXISTING = (file, folder, empty_folder, link_to_a_folder, dangling_link, fifo)


@pytest.mark.slow
def test_export_never_overwrites_an_existing_path(
    study: Any, tmp_path: Path, record: Callable[..., None]
) -> None:
    study.finish("--set", "search.trials=1")
    for create in EXISTING:
        parent = tmp_path / create.__name__
        parent.mkdir()
        create(parent / "winner")
        before = snapshot(parent)
        done = proxytune("export", "small", "--out", parent / "winner", cwd=study.folder)
        assert done.returncode == 2, (create.__name__, done.stderr)
        assert "winner" in done.stderr
        assert snapshot(parent) == before, create.__name__
    record(
        "export to an existing path",
        injected=len(EXISTING),
        lost=0,
        duplicated=0,
        seconds=None,
        result="exit code 2; the existing path is unchanged",
    )
