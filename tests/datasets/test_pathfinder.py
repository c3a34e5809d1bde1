"""Pathfinder: folders and metadata in both formats, and the generator against its definition and real images."""

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from proxytune.datasets import DataError, prepare
from proxytune.datasets.pathfinder_canvas import settings
from proxytune.datasets.pathfinder_formats import fixed_draw, read_metadata
from proxytune.datasets.pathfinder_generator import draw, draw_chunk

NUM_FILES, NUM_IMAGES = 4, 15  # metadata files, images per file


def pixels_of(folder: int, image: int) -> np.ndarray:
    return np.random.default_rng([folder, image]).integers(0, 256, (32, 32), np.uint8)


def label_of(folder: int, image: int) -> int:
    return (folder + image) % 2


def line(folder: int, image: int) -> str:
    return f"imgs/{folder} sample_{image}.png {image} {label_of(folder, image)} 1.8 6 2.0 5 1.5 2 1"


def write_release(root, base="lra_release/lra_release/pathfinder32/curv_contour_length_14", true_npy=False):
    folder = root / base
    (folder / "metadata").mkdir(parents=True)
    for number in range(NUM_FILES):
        (folder / f"imgs/{number}").mkdir(parents=True)
        for image in range(NUM_IMAGES):
            Image.fromarray(pixels_of(number, image)).save(folder / f"imgs/{number}/sample_{image}.png")
        lines = [line(number, image) for image in range(NUM_IMAGES)]
        path = folder / f"metadata/{number}.npy"
        if true_npy:
            np.save(path, np.array([text.split() for text in lines], "<U32"))
        else:
            path.write_text("\n".join(lines) + "\n")
    return folder


def content(*splits):
    return {(split[row][0][0].tobytes(), split[row][1]) for split in splits for row in range(len(split))}


def all_examples():
    return {(pixels_of(f, i).tobytes(), label_of(f, i)) for f in range(NUM_FILES) for i in range(NUM_IMAGES)}


@pytest.mark.parametrize(
    ("base", "true_npy"),
    [
        ("lra_release/lra_release/pathfinder32/curv_contour_length_14", False),
        ("lra_release/pathfinder32/curv_contour_length_14", True),
        ("pathfinder/pathfinder32/curv_contour_length_14", False),
        ("curv_contour_length_14", True),
    ],
)
def test_every_folder_nesting_and_metadata_format_is_read(base, true_npy, tmp_path):
    write_release(tmp_path, base, true_npy)
    prepared = prepare("pathfinder", root=tmp_path, cache=tmp_path / "cache")
    assert (len(prepared.train), len(prepared.validation), prepared.records["test"].rows) == (48, 6, 6)
    read = content(prepared.train, prepared.validation)
    assert len(read) == 54
    assert read < all_examples()
    with pytest.raises(DataError, match="Found data of difficulty=hard"):
        prepare("pathfinder", root=tmp_path, cache=tmp_path / "cache", difficulty="easy")


def test_empty_images_are_skipped_and_counted(tmp_path):
    folder = write_release(tmp_path)
    (folder / "imgs/0/sample_7.png").write_bytes(b"")
    prepared = prepare("pathfinder", root=tmp_path, cache=tmp_path / "cache")
    assert sum(record.rows for record in prepared.records.values()) == NUM_FILES * NUM_IMAGES - 1
    assert prepared.info.conventions["skipped"].startswith("1 empty images")
    assert "imgs/0/sample_7.png" in prepared.info.conventions["skipped"]


def damage_png(folder):
    path = folder / "imgs/2/sample_3.png"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage_png, r"imgs/2/sample_3\.png: not a readable PNG"),
        (lambda f: (f / "imgs/2/sample_3.png").unlink(), r"imgs/2/sample_3\.png is missing"),
        (
            lambda f: Image.new("L", (64, 64)).save(f / "imgs/2/sample_3.png"),
            "64 x 64 pixels, 32 x 32 are expected",
        ),
        (
            lambda f: (f / "metadata/2.npy").write_text(line(2, 0) + "\n" + line(2, 0)),
            r"2\.npy, line 2: .* is duplicated",
        ),
        (
            lambda f: (f / "metadata/2.npy").write_text("imgs/2 sample_0.png 0 nan 1.8"),
            r"2\.npy, line 1: label 'nan'",
        ),
        (lambda f: (f / "metadata/2.npy").write_text("imgs/2 sample_0.png 0"), r"2\.npy, line 1: 3 fields"),
        (lambda f: (f / "metadata/2.npy").write_text("../.. sample_0.png 0 1"), "is outside the data folder"),
        (lambda f: np.save(f / "metadata/2.npy", np.zeros(3)), "metadata are strings"),
        (
            lambda f: np.save(f / "metadata/2.npy", np.array([{}]), allow_pickle=True),
            r"2\.npy: .*allow_pickle",
        ),
    ],
)
def test_invalid_input_is_rejected_and_named(change, message, tmp_path):
    change(write_release(tmp_path))
    with pytest.raises(DataError, match=message) as error:
        prepare("pathfinder", root=tmp_path, cache=tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_label_is_the_fourth_metadata_field():
    stream = io.BytesIO(b"imgs/43 sample_0.png 0 1 1.8 6 2.0 5 1.5 2 1\n")
    assert list(read_metadata(stream, "43.npy")) == [("imgs/43/sample_0.png", 1, "43.npy, line 1")]


@given(st.binary(max_size=80))
def test_arbitrary_metadata_raises_data_error_or_gives_valid_rows(content):
    try:
        rows = list(read_metadata(io.BytesIO(content), "0.npy"))
    except DataError:
        return
    for image, label, _ in rows:
        assert label in (0, 1)
        assert ".." not in image.split("/")
        assert not image.startswith("/")


def test_split_assignment_is_fixed_and_independent_of_order():
    split = fixed_draw([f"{number}.png" for number in range(1000)])
    assert [list(split.values()).count(name) for name in ("train", "validation", "test")] == [800, 100, 100]
    assert split == fixed_draw([f"{number}.png" for number in reversed(range(1000))])


# --- the generator ---------------------------------------------------------------------------------------


def distance(a, b) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


@pytest.mark.parametrize("side", [32, 128])
def test_label_is_whether_markers_are_on_one_contour(side):
    chosen = settings(side, 14)
    random = np.random.default_rng(5)
    for _ in range(12 if side == 32 else 2):
        drawing = draw(random, chosen)
        ends = [(target[0], target[-1]) for target in drawing.targets]
        start, end = drawing.markers
        (snake,) = [index for index, (tail, _) in enumerate(ends) if tail == start]
        assert end == ends[snake if drawing.label else 1 - snake][1]
        for target in drawing.targets:
            assert len(target) == chosen.contour_length + 1
            # From the second dash on, consecutive heads are at most a dash and its two margins apart.
            strides = [distance(a, b) for a, b in pairwise(target[1:])]
            assert max(strides) < chosen.dash_length + 2 * max(chosen.margins) + 2
        for marker in drawing.markers:
            assert drawing.pixels[marker] > 100
        assert drawing.pixels.max() == 255


def test_every_dash_of_a_target_is_drawn():
    chosen = settings(32, 9)
    drawing = draw(np.random.default_rng(2), chosen)
    for target in drawing.targets:
        for row, column in target:
            assert drawing.pixels[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].max() > 40


@pytest.fixture(scope="module")
def chunk():
    """400 images with their labels."""
    return draw_chunk(0, seed=3, settings=settings(32, 6), num_images=400)


def test_labels_are_balanced_and_images_are_reproducible(chunk):
    pixels, labels = chunk
    assert abs(labels.mean() - 0.5) < 0.1  # 4 standard deviations
    assert len({image.tobytes() for image in pixels}) == 400
    again, labels_again = draw_chunk(0, seed=3, settings=settings(32, 6), num_images=20)
    assert np.array_equal(pixels[:20], again)
    assert np.array_equal(labels[:20], labels_again)
    other, _ = draw_chunk(1, seed=3, settings=settings(32, 6), num_images=10)
    assert not np.array_equal(pixels[:10], other)


def test_mean_brightness_does_not_predict_the_label(chunk):
    pixels, labels = chunk
    brightness = pixels.reshape(400, -1).mean(1)
    difference = brightness[labels == 1].mean() - brightness[labels == 0].mean()
    assert abs(difference) < 4 * brightness.std() * np.sqrt(4 / 400)


def test_generated_task_is_tagged_and_has_the_requested_sizes(tmp_path):
    prepared = prepare("pathfinder", cache=tmp_path, train_examples=40, difficulty="easy", mapper=map)
    assert (len(prepared.train), len(prepared.validation), prepared.records["test"].rows) == (40, 5, 5)
    assert prepared.info.conventions["source"].startswith("generated")
    assert (prepared.train[0][0][0].dtype, len(prepared.train[0][0][0])) == (np.uint8, 1024)


def real_images(real_file, side: int) -> list[np.ndarray]:
    folder = real_file(f"pathfinder_real_unlabelled/pathfinder{side}_curv_contour_length_14")
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def drawn(side: int, number: int):
    random = np.random.default_rng(0)
    return [draw(random, settings(side, 14)) for _ in range(number)]


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("side", [64, 128])
def test_generated_images_match_real_image_statistics(side, real_file):
    """Gray levels of markers, dash brightness, mean brightness, ripple, number of distractors."""
    real = np.stack(real_images(real_file, side))
    drawings = drawn(side, 30)
    ours = np.stack([drawing.pixels for drawing in drawings])

    # Marker levels: those that occur in most images and are brighter than any dash.
    def levels(images, minimum):
        present = np.stack([np.bincount(image.ravel(), minlength=256) > 0 for image in images]).mean(0)
        return {level for level in range(minimum, 256) if present[level] > 0.9}

    assert levels(ours, 240) == levels(real, 240)
    assert levels(real, 240)

    def shares(images):
        bounds = (4, 32, 96, 160, 200, 256)
        return np.array([((images >= a) & (images < b)).mean() for a, b in pairwise(bounds)])

    assert np.allclose(shares(ours), shares(real), rtol=0.25, atol=0.002)
    dashes = [np.percentile(images[(images > 100) & (images < 200)], 95) for images in (real, ours)]
    assert abs(dashes[0] - dashes[1]) < 6
    ink = [images.reshape(len(images), -1).mean(1) for images in (real, ours)]
    error = np.hypot(ink[0].std() / np.sqrt(len(real)), ink[1].std() / np.sqrt(len(ours)))
    assert abs(ink[0].mean() - ink[1].mean()) < 3 * error
    ripple = [((images > 0) & (images < 4)).mean() for images in (real, ours)]
    assert abs(ripple[0] - ripple[1]) < 0.02
    expected = {64: 5.1, 128: 14.4}[side]  # estimated from the mean brightness of the real images
    assert abs(np.mean([drawing.num_distractors for drawing in drawings]) - expected) < 2
