"""Lines in, JSON out: every task's own form, bad lines, streams in pieces; and evaluate, which guards the test split."""

import io
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from proxytune.datasets import DataError
from proxytune.datasets.openings import LOG, recorded_openings
from proxytune.models.config import ModelConfig
from proxytune.tuning.errors import InputError
from proxytune.tuning.export import export as export_module
from proxytune.tuning.export.export import whole
from proxytune.tuning.predict.evaluate import evaluate_export
from proxytune.tuning.predict.exported import load_export
from proxytune.tuning.predict.inputs import InputFormat
from proxytune.tuning.predict.predict import Predictor, predict_stream
from proxytune.tuning.spec.task import Task
from proxytune.tuning.spec.trial_spec import task_fields
from proxytune.tuning.trial.data import prepare_task

QUIET = Console(quiet=True)


def form(name: str, options: dict | None = None, conventions: dict[str, str] | None = None) -> InputFormat:
    task = Task.model_validate({"name": name} | (options or {}))
    info = task.info()
    return InputFormat(
        task, ModelConfig(num_proxies=8, **task_fields(info)), dict(info.conventions) | (conventions or {})
    )


@pytest.fixture(scope="module")
def predictor(finished) -> Predictor:
    return Predictor(load_export(finished.written.folder))


@pytest.fixture(scope="module")
def lines(finished, predictor: Predictor) -> list[bytes]:
    split = finished.prepared.validation
    return [predictor.input_format.show(split[row][0]).encode() for row in range(70)]


def test_the_answers_are_the_models_in_the_order_of_the_lines(finished, predictor, lines) -> None:
    answers = predictor.predict(lines, first=5)
    assert [answer["line"] for answer in answers] == list(range(5, 75))
    model = load_export(finished.written.folder).classifier()
    for row, answer in zip(range(70), answers, strict=True):
        ids = torch.from_numpy(finished.prepared.validation[row][0][0].astype(np.int64))[None]
        with torch.no_grad():
            expected = model(ids, ids != 0).softmax(-1)[0]
        assert answer["probabilities"] == pytest.approx(expected.tolist(), abs=2e-6)
        assert answer["label"] == int(expected.argmax())


class Pieces(io.RawIOBase):
    """A stream that hands out its pieces one by one, and remembers how many it has."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = list(pieces)
        self.reads = 0

    def read1(self, size: int = -1, /) -> bytes:
        self.reads += 1
        return self._pieces.pop(0) if self._pieces else b""


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 400), max_size=6), end=st.sampled_from([b"\n", b"", b"\r\n"]))
def test_a_stream_in_any_pieces_gives_the_same_answers(finished, predictor, lines, cuts, end) -> None:
    text = b"\n".join(lines[:9]) + end
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds) if a < b]
    answers = list(predict_stream(load_export(finished.written.folder), Pieces(pieces)))  # type: ignore[arg-type]
    whole_answers = predictor.predict(lines[:9])
    for one, other in zip(answers, whole_answers, strict=True):
        assert (one["line"], one["label"]) == (other["line"], other["label"])
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-6)


def test_what_has_come_is_answered_before_more_is_waited_for(finished, lines) -> None:
    stream = Pieces([lines[0] + b"\n", lines[1] + b"\n"])
    answers = predict_stream(load_export(finished.written.folder), stream)  # type: ignore[arg-type]
    assert next(answers)["line"] == 1
    assert stream.reads == 1
    assert next(answers)["line"] == 2
    assert stream.reads == 2
    assert list(answers) == []


def test_a_bad_line_is_an_error_object_in_its_place(predictor, lines) -> None:
    answers = predictor.predict([lines[0], b"hello", b"", lines[1]])
    assert [sorted(answer) for answer in answers] == [
        ["label", "line", "probabilities"],
        ["error", "line"],
        ["error", "line"],
        ["label", "line", "probabilities"],
    ]
    assert "no token 'hello'" in answers[1]["error"]


def test_the_verb_predicts_what_it_reads(finished, lines, call, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines[0] + b"\nhello\n")))
    done = call("predict", finished.written.folder, cwd=tmp_path)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["line"] for answer in answers] == [1, 2]
    assert done.code == 1
    assert "1 of 2 lines could not be read; line 2: ListOps has no token" in done.stderr


@given(st.binary(min_size=1).filter(lambda text: b"\t" not in text))
def test_a_text_is_its_bytes_and_a_literal_is_made_of_it(text: bytes) -> None:
    (ids,) = form("text").parse(text)
    assert bytes((ids - 1).tolist()) == text[:4000]
    literal, second = form("retrieval").parse(text + b"\tother")
    assert bytes((literal - 1).tolist()) == repr(text).encode()[:4000]
    assert bytes((second - 1).tolist()) == b"b'other'"
    (plain, _) = form("retrieval", {"documents": "decoded"}, {"documents": "decoded"}).parse(
        text + b"\tother"
    )
    assert bytes((plain - 1).tolist()) == text[:4000]


@given(st.lists(st.integers(0, 255), min_size=1024, max_size=1024).filter(any), st.booleans())
@settings(max_examples=20)
def test_a_picture_is_its_grey_levels(pixels: list[int], black_is_padding: bool) -> None:
    image = form("image", {"black_is_padding": black_is_padding})
    (ids,) = image.parse(" ".join(map(str, pixels)).encode())
    assert ids.tolist() == [pixel + (not black_is_padding) for pixel in pixels]
    assert image.parse(image.show((ids,)).encode())[0].tolist() == ids.tolist()


def test_recall_is_its_queries_and_pairs() -> None:
    recall = form("recall", {"max_length": 32, "num_keys": 12})
    line = "3? 3=5 7=2 0=1 3?"
    assert recall.show(recall.parse(line.encode())) == line
    with pytest.raises(DataError, match="'hello'"):
        recall.parse(b"hello 3?")


@given(st.lists(st.integers(1, 256), min_size=1, max_size=50))
def test_ready_made_ids_are_taken_as_they_are(ids: list[int]) -> None:
    packed = form("text", conventions={"tokens": "ids as packed, their meaning unknown"})
    assert packed.parse(" ".join(map(str, ids)).encode())[0].tolist() == ids
    assert packed.show((np.array(ids),)) == " ".join(map(str, ids))


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("text", b"", "empty"),
        ("retrieval", b"only one", "separated by a tab"),
        ("retrieval", b"one\t", None),  # an empty literal is b'', which is a text of three bytes
        ("image", b"1 2 3", "3 pixels, a picture has 1024"),
        ("image", b"1 x", "integers from 0 to 255"),
        ("image", b"1 256", "not 1 to 256"),
        ("image", b" ".join([b"0"] * 1024), "only padding"),
        ("listops", b"[MAX 3", "a complete ListOps expression is expected"),
        ("listops", b"[MAX 1 2 ] ]", "every bracket closed"),
        ("listops", b"[MAX ]", "operators with arguments"),
        ("listops", b"[MAX 3 ]", None),
        ("listops", b"[MAX 1 2 ] ]]", "no token"),
    ],
)
def test_lines_that_are_not_in_the_tasks_form(name: str, line: bytes, words: str | None) -> None:
    if words is None:
        form(name).parse(line)
        return
    with pytest.raises(DataError, match=words.replace("[", r"\[")):
        form(name).parse(line)


@pytest.fixture
def own_cache(study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study's prepared data, whose record of test openings is the test's own; its folder."""
    folder = prepare_task(study.spec.task).folder
    monkeypatch.setenv("PROXYTUNE_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(folder, tmp_path / "cache" / folder.name))


def test_evaluate_gives_the_recorded_accuracy_and_guards_the_test_split(
    exported: Path, study, own_cache: Path
) -> None:
    evaluated = evaluate_export(load_export(exported), "val", who="a@b", again=False, console=QUIET)
    assert evaluated["accuracy"] == evaluated["recorded_accuracy"]
    assert evaluated["same_data"]
    assert not (own_cache / LOG).exists()
    tested = evaluate_export(load_export(exported), "test", who="a@b", again=False, console=QUIET)
    assert (tested["openings"], tested["num_examples"]) == (1, 2000)
    with pytest.raises(InputError, match="opened for small before"):
        evaluate_export(load_export(exported), "test", who="a@b", again=False, console=QUIET)
    again = evaluate_export(load_export(exported), "test", who="a@b", again=True, console=QUIET)
    assert (again["openings"], again["accuracy"]) == (2, tested["accuracy"])
    assert [one["by"] for one in recorded_openings(own_cache)] == ["a@b", "a@b"]
    openings = export_module._openings(study, study.spec)  # what the next export says
    assert [one["what"].partition(",")[0] for one in openings] == ["evaluate small: trial 0"] * 2


def test_other_data_is_told(exported: Path) -> None:
    other = load_export(exported, ["task.train_examples=200"])
    assert not evaluate_export(other, "val", who="a@b", again=False, console=QUIET)["same_data"]
    longer = load_export(exported, ["task.max_length=256"])
    with pytest.raises(InputError, match="does not fit the data or settings"):
        evaluate_export(longer, "val", who="a@b", again=False, console=QUIET)


def test_a_trained_model_becomes_a_folder_of_the_same_kind(
    exported: Path, tmp_path: Path, without_programs: None
) -> None:
    from proxytune.tuning.export.verify import verify_export
    from proxytune.tuning.predict.train import over_seeds, train_once, train_seeds

    original = load_export(exported)
    trained = train_once(original.spec, QUIET)
    timing = {"seconds", "tokens_per_second"}
    assert {k: v for k, v in trained.metrics.items() if k not in timing} == {
        k: v for k, v in original.metrics.items() if k not in timing
    }
    with whole(tmp_path / "again") as folder:
        export_module.write_folder(
            folder, original.spec, trained.metrics, {"source": "x"}, trained.weights, None, lambda _: None
        )
    assert verify_export(tmp_path / "again") == []
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == (
        exported / "weights.safetensors"
    ).read_bytes()
    results = train_seeds(original.spec, 2, QUIET)
    assert [one["seed"] for one in results] == [0, 1]
    assert results[0]["metrics"]["val_loss"] == original.metrics["val_loss"]
    loss = over_seeds(results)["val_loss"]
    assert loss["mean"] == pytest.approx(sum(one["metrics"]["val_loss"] for one in results) / 2)
    assert loss["interval"][0] < loss["mean"] < loss["interval"][1]
