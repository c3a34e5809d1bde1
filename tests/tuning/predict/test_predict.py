"""Prediction from lines of text to JSON in the input format of every task, and evaluation, which guards the test split."""

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
from proxytune.tuning.commands.train import train
from proxytune.tuning.errors import InputError, StorageError
from proxytune.tuning.export import export as export_module
from proxytune.tuning.export.export import export_study, whole
from proxytune.tuning.predict.evaluate import evaluate_export
from proxytune.tuning.predict.exported import load_export
from proxytune.tuning.predict.inputs import InputFormat
from proxytune.tuning.predict.predict import Predictor, predict_stream
from proxytune.tuning.spec.task import Task
from proxytune.tuning.spec.trial_spec import task_fields
from proxytune.tuning.trial.data import prepare_task

QUIET = Console(quiet=True)


def input_format(
    name: str, options: dict | None = None, conventions: dict[str, str] | None = None
) -> InputFormat:
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


def test_predictions_match_the_model_and_keep_the_line_order(finished, predictor, lines) -> None:
    predictions = predictor.predict(lines, first=5)
    assert [prediction["line"] for prediction in predictions] == list(range(5, 75))
    model = load_export(finished.written.folder).classifier()
    for row, prediction in zip(range(70), predictions, strict=True):
        ids = torch.from_numpy(finished.prepared.validation[row][0][0].astype(np.int64))[None]
        with torch.no_grad():
            expected = model(ids, ids != 0).softmax(-1)[0]
        assert prediction["probabilities"] == pytest.approx(expected.tolist(), abs=2e-6)
        assert prediction["label"] == int(expected.argmax())


class Pieces(io.RawIOBase):
    """A stream that returns one piece per read and counts the reads."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = list(pieces)
        self.reads = 0

    def read1(self, size: int = -1, /) -> bytes:
        self.reads += 1
        return self._pieces.pop(0) if self._pieces else b""


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 400), max_size=6), end=st.sampled_from([b"\n", b"", b"\r\n"]))
def test_stream_predictions_do_not_depend_on_chunk_boundaries(finished, predictor, lines, cuts, end) -> None:
    text = b"\n".join(lines[:9]) + end
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds) if a < b]
    predictions = list(predict_stream(load_export(finished.written.folder), Pieces(pieces)))  # type: ignore[arg-type]
    together = predictor.predict(lines[:9])
    for prediction, expected in zip(predictions, together, strict=True):
        assert (prediction["line"], prediction["label"]) == (expected["line"], expected["label"])
        assert prediction["probabilities"] == pytest.approx(expected["probabilities"], abs=2e-6)


def test_stream_predicts_received_lines_before_it_reads_more(finished, lines) -> None:
    stream = Pieces([lines[0] + b"\n", lines[1] + b"\n"])
    predictions = predict_stream(load_export(finished.written.folder), stream)  # type: ignore[arg-type]
    assert next(predictions)["line"] == 1
    assert stream.reads == 1
    assert next(predictions)["line"] == 2
    assert stream.reads == 2
    assert list(predictions) == []


def test_invalid_line_yields_an_error_object_at_its_position(predictor, lines) -> None:
    predictions = predictor.predict([lines[0], b"hello", b"", lines[1]])
    assert [sorted(prediction) for prediction in predictions] == [
        ["label", "line", "probabilities"],
        ["error", "line"],
        ["error", "line"],
        ["label", "line", "probabilities"],
    ]
    assert "no token 'hello'" in predictions[1]["error"]


def test_predict_command_reads_stdin_and_fails_on_an_invalid_line(
    finished, lines, call, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines[0] + b"\nhello\n")))
    done = call("predict", finished.written.folder, cwd=tmp_path)
    predictions = [json.loads(line) for line in done.stdout.splitlines()]
    assert [prediction["line"] for prediction in predictions] == [1, 2]
    assert done.code == 1
    assert "1 of 2 lines could not be read; line 2: ListOps has no token" in done.stderr


@given(st.binary(min_size=1).filter(lambda text: b"\t" not in text))
def test_text_is_parsed_as_bytes_and_a_document_as_a_bytes_literal(text: bytes) -> None:
    (ids,) = input_format("text").parse(text)
    assert bytes((ids - 1).tolist()) == text[:4000]
    literal, second = input_format("retrieval").parse(text + b"\tother")
    assert bytes((literal - 1).tolist()) == repr(text).encode()[:4000]
    assert bytes((second - 1).tolist()) == b"b'other'"
    (plain, _) = input_format("retrieval", {"documents": "decoded"}, {"documents": "decoded"}).parse(
        text + b"\tother"
    )
    assert bytes((plain - 1).tolist()) == text[:4000]


@given(st.lists(st.integers(0, 255), min_size=1024, max_size=1024).filter(any), st.booleans())
@settings(max_examples=20)
def test_image_is_parsed_as_grey_levels_and_round_trips(pixels: list[int], black_is_padding: bool) -> None:
    image = input_format("image", {"black_is_padding": black_is_padding})
    (ids,) = image.parse(" ".join(map(str, pixels)).encode())
    assert ids.tolist() == [pixel + (not black_is_padding) for pixel in pixels]
    assert image.parse(image.show((ids,)).encode())[0].tolist() == ids.tolist()


def test_recall_line_round_trips_and_an_unknown_token_is_rejected() -> None:
    recall = input_format("recall", {"max_length": 32, "num_keys": 12})
    line = "3? 3=5 7=2 0=1 3?"
    assert recall.show(recall.parse(line.encode())) == line
    with pytest.raises(DataError, match="'hello'"):
        recall.parse(b"hello 3?")


@given(st.lists(st.integers(1, 256), min_size=1, max_size=50))
def test_packed_ids_are_parsed_unchanged(ids: list[int]) -> None:
    packed = input_format("text", conventions={"tokens": "ids as packed, their meaning unknown"})
    assert packed.parse(" ".join(map(str, ids)).encode())[0].tolist() == ids
    assert packed.show((np.array(ids),)) == " ".join(map(str, ids))


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("text", b"", "empty"),
        ("retrieval", b"only one", "separated by a tab"),
        ("retrieval", b"one\t", None),  # an empty document is the literal b'', which has three bytes
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
def test_line_is_parsed_or_rejected_with_the_reason(name: str, line: bytes, words: str | None) -> None:
    if words is None:
        input_format(name).parse(line)
        return
    with pytest.raises(DataError, match=words.replace("[", r"\[")):
        input_format(name).parse(line)


@pytest.fixture
def own_cache(study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a copy of the study's prepared data, with a separate record of test-split openings."""
    folder = prepare_task(study.spec.task).folder
    monkeypatch.setenv("PROXYTUNE_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(folder, tmp_path / "cache" / folder.name))


def test_evaluate_returns_the_recorded_accuracy_and_guards_the_test_split(
    exported: Path, study, own_cache: Path, tmp_path: Path, without_programs: None
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
    assert [opening["by"] for opening in recorded_openings(own_cache)] == ["a@b", "a@b"]
    (later,) = export_study(study, tmp_path / "later")
    openings = json.loads((later.folder / "provenance.json").read_text())["test_openings"]
    assert [opening["what"].partition(",")[0] for opening in openings] == ["evaluate small: trial 0"] * 2


def test_evaluate_reports_other_data_and_rejects_other_settings(exported: Path) -> None:
    other = load_export(exported, ["task.train_examples=200"])
    assert not evaluate_export(other, "val", who="a@b", again=False, console=QUIET)["same_data"]
    longer = load_export(exported, ["task.max_length=256"])
    with pytest.raises(InputError, match="does not fit the data or settings"):
        evaluate_export(longer, "val", who="a@b", again=False, console=QUIET)


def test_folder_that_cannot_be_written_fails_before_the_training(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxytune.tuning.predict.train.train_once", lambda *_: pytest.fail("it trains"))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Not a directory"):
        train.main([str(exported), "--out", str(tmp_path / "file" / "model")], standalone_mode=False)


def test_retraining_an_export_reproduces_its_metrics_and_weights(
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
    assert [result["seed"] for result in results] == [0, 1]
    assert results[0]["metrics"]["val_loss"] == original.metrics["val_loss"]
    loss = over_seeds(results)["val_loss"]
    assert loss["mean"] == pytest.approx(sum(result["metrics"]["val_loss"] for result in results) / 2)
    assert loss["interval"][0] < loss["mean"] < loss["interval"][1]
