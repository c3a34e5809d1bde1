"""Image: splits and options of the original files, gray levels that agree with TensorFlow, invalid files."""

import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image as PILImage

from proxytune.datasets import DataError, prepare
from proxytune.datasets.pictures import grey

NUM_IMAGES = 20  # per batch


def batches():
    random = np.random.default_rng(0)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    return {
        name: (random.integers(0, 256, (NUM_IMAGES, 3072), np.uint8), random.integers(0, 10, NUM_IMAGES))
        for name in names
    }


def write_python(root, python_2=False):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, (data, labels) in batches().items():
        key = (lambda text: text.encode()) if python_2 else (lambda text: text)
        batch = {
            key("data"): data,
            key("labels"): labels.tolist(),
            key("batch_label"): b"x",
            key("filenames"): [b"a"],
        }
        content = pickle.dumps(batch, 2)
        if not python_2:
            content = pickle.dumps({key.encode(): value for key, value in batch.items()}, 4)
        (folder / name).write_bytes(content)
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}))


def write_archive(root):
    write_python(root / "unpacked", python_2=True)
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
        for path in sorted((root / "unpacked/cifar-10-batches-py").iterdir(), reverse=True):
            tar.add(path, f"cifar-10-batches-py/{path.name}")


def write_binary(root):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, (data, labels) in batches().items():
        rows = np.concatenate([labels[:, None].astype(np.uint8), data], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def content(split):
    return [(split[row][0][0].tolist(), split[row][1]) for row in range(len(split))]


def test_archive_of_python_2_pickles_gives_the_same_rows(tmp_path):
    for name, write in (("pickles", write_python), ("archive", write_archive)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    pickles, archive = (
        prepare("image", root=tmp_path / name, cache=tmp_path / "cache") for name in ("pickles", "archive")
    )
    assert (len(pickles.train), len(pickles.validation), pickles.records["test"].rows) == (90, 10, 20)
    assert content(pickles.train) == content(archive.train)
    assert content(pickles.validation) == content(archive.validation)
    expected = np.concatenate([labels for name, (_, labels) in batches().items() if name != "test_batch"])
    assert pickles.train.labels.tolist() + pickles.validation.labels.tolist() == expected.tolist()


def test_gray_levels_agree_with_tensorflow():
    """Reference per pixel: unit range, weights, times 255.5, floor; Pillow's levels also differ by at most one."""
    random = np.random.default_rng(1)
    planes = random.integers(0, 256, (3, 3, 1024), np.uint8)
    levels = grey(planes)
    for image in range(3):
        for pixel in range(0, 1024, 7):
            red, green, blue = (float(value) / 255 for value in planes[image, :, pixel])
            assert (
                abs(int(levels[image, pixel]) - int((0.2989 * red + 0.587 * green + 0.114 * blue) * 255.5))
                <= 1
            )
        pillow = PILImage.fromarray(planes[image].reshape(3, 32, 32).transpose(1, 2, 0)).convert("L")
        assert np.abs(np.asarray(pillow).reshape(-1).astype(int) - levels[image]).max() <= 1
    assert grey(np.full((1, 3, 1), 255, np.uint8)).item() == 255
    assert grey(np.zeros((1, 3, 1), np.uint8)).item() == 0


def test_black_is_padding_is_optional(tmp_path):
    write_binary(tmp_path)
    masked = prepare("image", root=tmp_path, cache=tmp_path / "cache")
    kept = prepare("image", root=tmp_path, cache=tmp_path / "cache", black_is_padding=False)
    assert (masked.info.vocab_size, kept.info.vocab_size) == (256, 257)
    assert np.array_equal(masked.train[3][0][0] + 1, kept.train[3][0][0])
    assert masked.info.conventions["tokens"] != kept.info.conventions["tokens"]


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("data_batch_3.bin", b"", "0 bytes are not a multiple"),
        ("data_batch_3.bin", bytes(3072), "3072 bytes are not a multiple"),
        ("test_batch.bin", bytes([11]) + bytes(3072), "label 11 in row 0 of test"),
    ],
)
def test_invalid_binary_file_is_rejected(name, bad, message, tmp_path):
    write_binary(tmp_path)
    (tmp_path / "cifar-10-batches-bin" / name).write_bytes(bad)
    with pytest.raises(DataError, match=message):
        prepare("image", root=tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({b"data": np.zeros((2, 3072), np.uint8)}, "no CIFAR-10 batch"),
        ({b"data": np.zeros((2, 100), np.uint8), b"labels": [0, 1]}, r"data of shape \(2, 100\)"),
        ([1], "no CIFAR-10 batch"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 0.5]}, "label 0.5 is not a whole number"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, -1]}, "label -1 is negative"),
        (
            {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 4294967295]},
            "label 4294967295 is too large",
        ),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": 1}, "2, 3072.*1 labels"),
    ],
)
def test_invalid_pickle_is_rejected(bad, message, tmp_path):
    write_python(tmp_path)
    (tmp_path / "cifar-10-batches-py/data_batch_2").write_bytes(pickle.dumps(bad))
    with pytest.raises(DataError, match=f"data_batch_2.*{message}"):
        prepare("image", root=tmp_path, cache=tmp_path / "cache")


@pytest.mark.realdata
def test_real_archive_is_read(real_file, tmp_path):
    prepared = prepare("image", root=real_file("cifar-10-python.tar.gz"), cache=tmp_path)
    assert (len(prepared.train), len(prepared.validation), prepared.records["test"].rows) == (3600, 400, 1000)
    levels = np.concatenate([prepared.train[row][0][0] for row in range(500)])
    assert 110 < levels.mean() < 132  # the gray mean of CIFAR-10 is 122.6
    assert 55 < levels.std() < 68  # its standard deviation is 61
    assert np.bincount(prepared.train.labels).min() > 300
