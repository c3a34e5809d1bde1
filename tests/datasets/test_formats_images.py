"""Image and Pathfinder: every registered format gives the same images."""

import io
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image as PILImage

from proxytune.datasets import DataError, find_sources, prepare
from proxytune.datasets.image import CLASSES, FORMATS
from proxytune.datasets.pathfinder_formats import pathfinder_formats
from proxytune.datasets.pictures import grey

NUM_IMAGES = 20  # per batch
BATCHES = {
    name: (
        np.random.default_rng(number).integers(0, 256, (NUM_IMAGES, 3072), np.uint8),
        np.arange(NUM_IMAGES) % 10,
    )
    for number, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"])
}
SPLIT_BATCHES = {"train": [name for name in BATCHES if name != "test_batch"], "test": ["test_batch"]}


def images(split: str) -> list[tuple[np.ndarray, int]]:
    """Pixels of shape (height, width, 3) and label of each image, in file order."""
    return [
        (row.reshape(3, 32, 32).transpose(1, 2, 0), int(label))
        for name in SPLIT_BATCHES[split]
        for row, label in zip(*BATCHES[name], strict=True)
    ]


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_python(root: Path, _=None) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, (data, labels) in BATCHES.items():
        (folder / name).write_bytes(pickle.dumps({b"data": data, b"labels": labels.tolist()}))


def write_binary(root: Path, _) -> None:
    folder = root / "cifar10/cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, (data, labels) in BATCHES.items():
        rows = np.concatenate([labels[:, None].astype(np.uint8), data], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())


def tables() -> dict[str, pa.Table]:
    return {
        split: pa.table(
            {
                "img": [{"bytes": encoded(image), "path": None} for image, _ in images(split)],
                "label": [label for _, label in images(split)],
            }
        )
        for split in ("train", "test")
    }


def write_class_folders(root: Path, kind: str = "PNG", names=CLASSES) -> None:
    for split in ("train", "test"):
        for number, (image, label) in enumerate(images(split)):
            path = root / f"cifar10/{split}/{names[label]}/{number:05d}.{kind.lower()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(image, kind))


def packed_examples() -> dict[str, list]:
    """Gray pixels; the last tenth of train is validation."""
    rows = {
        split: [
            ((grey(image.transpose(2, 0, 1).reshape(1, 3, -1))[0].tolist(),), label)
            for image, label in images(split)
        ]
        for split in ("train", "test")
    }
    return {"train": rows["train"][:90], "validation": rows["train"][90:], "test": rows["test"]}


IMAGE_WRITERS = {
    "CIFAR-10 python pickles": write_python,
    "CIFAR-10 binary": write_binary,
    "Hugging Face Parquet": lambda root, packing: packing.tables(root / "plain_text", tables(), "parquet"),
    "Hugging Face save_to_disk": lambda root, packing: packing.tables(root / "cifar10", tables(), "saved"),
    "Hugging Face cache": lambda root, packing: packing.tables(
        root / "datasets/cifar10/plain_text/0.0.0/447d", tables(), "cached"
    ),
    "class folders of images": lambda root, packing: write_class_folders(root),
    "Skyformer pickles": lambda root, packing: packing.pickles(
        root / "lra_processed", "lra-image", packed_examples()
    ),
    "Nystromformer pickles": lambda root, packing: packing.pickles(root, "image", packed_examples()),
    "MEGA packed text": lambda root, packing: packing.mega(root / "lra/cifar10", packed_examples()),
    "npz": lambda root, packing: packing.npz(root / "cifar10", packed_examples()),
    "files by name": None,
}


def content(*splits):
    return [(split[row][0][0].tobytes(), split[row][1]) for split in splits for row in range(len(split))]


@pytest.fixture
def reference(tmp_path):
    write_python(tmp_path / "reference")
    return prepare("image", root=tmp_path / "reference", cache=tmp_path / "cache")


def test_every_registered_image_format_is_tested():
    assert list(IMAGE_WRITERS) == [each.name for each in FORMATS]


@pytest.mark.parametrize("format_name", [name for name, write in IMAGE_WRITERS.items() if write])
def test_every_image_format_gives_the_same_rows_and_fingerprint(format_name, tmp_path, packing, reference):
    IMAGE_WRITERS[format_name](tmp_path / "root", packing)
    prepared = prepare("image", root=tmp_path / "root", cache=tmp_path / "cache")
    assert prepared.info.conventions["source"] == format_name
    both = content(prepared.train, prepared.validation)
    if format_name == "class folders of images":  # which have no order
        assert sorted(both) == sorted(content(reference.train, reference.validation))
        assert "fixed draw" in prepared.info.conventions["validation"]
    else:
        assert both == content(reference.train, reference.validation)
        assert prepared.fingerprint == reference.fingerprint
    (finding,) = [each for each in find_sources(tmp_path / "root") if each.task == "image"]
    assert (finding.form, finding.missing) == (format_name, ())


def test_class_folders_give_same_fingerprint_archived_or_numbered(tmp_path):
    write_class_folders(tmp_path / "named")
    write_class_folders(tmp_path / "numbered", names=[str(number) for number in range(10)])
    with tarfile.open(tmp_path / "CIFAR10.tgz", "w:gz") as tar:
        for path in sorted((tmp_path / "named").rglob("*.png"), reverse=True):
            tar.add(path, path.relative_to(tmp_path / "named"))
    roots = ("named", "numbered", "CIFAR10.tgz")
    assert len({prepare("image", root=tmp_path / r, cache=tmp_path / "c").fingerprint for r in roots}) == 1


def test_jpeg_is_recorded_as_lossy_and_damaged_jpeg_is_rejected(tmp_path):
    write_class_folders(tmp_path / "root", "JPEG")
    prepared = prepare("image", root=tmp_path / "root", cache=tmp_path / "cache")
    assert prepared.info.conventions["lossy"].startswith("120 images are JPEG")
    path = next((tmp_path / "root").rglob("*.jpeg"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=f"{path.name}: not a readable PNG or JPEG"):
        prepare("image", root=tmp_path / "root", cache=tmp_path / "cache")
    partial = prepare("image", root=tmp_path / "root", cache=tmp_path / "cache", partial=True)
    assert path.name in partial.info.conventions["partial"]


def test_missing_class_folder_is_reported(tmp_path):
    write_class_folders(tmp_path / "root")
    shutil.rmtree(tmp_path / "root/cifar10/test/frog")
    with pytest.raises(DataError, match=r"missing: cifar10/test/frog/\*"):
        prepare("image", root=tmp_path / "root", cache=tmp_path / "cache")


def test_missing_class_is_accepted_only_as_partial(tmp_path):
    write_class_folders(tmp_path / "root")
    shutil.rmtree(tmp_path / "root/cifar10/train/frog")
    with pytest.raises(DataError, match=r"missing: .*train/frog/\*\n.*set task\.partial: true"):
        prepare("image", root=tmp_path / "root", cache=tmp_path / "cache")
    partial = prepare("image", root=tmp_path / "root", cache=tmp_path / "cache", partial=True)
    assert partial.info.conventions["partial"].endswith("no cifar10/train/frog/*")
    assert "train has 9 of 10 classes" in partial.info.conventions["classes"]


def test_validation_folder_is_used_and_metadata_files_are_ignored(tmp_path):
    write_class_folders(tmp_path / "root")
    shutil.copytree(tmp_path / "root/cifar10/test", tmp_path / "root/cifar10/val")
    for name in (".DS_Store", "Thumbs.db", "._0.png"):
        (tmp_path / f"root/cifar10/train/frog/{name}").write_bytes(b"not an image")
    prepared = prepare("image", root=tmp_path / "root", cache=tmp_path / "cache")
    assert prepared.info.conventions["validation"].startswith("the copy's own split")
    assert len(prepared.validation) == prepared.records["test"].rows


def test_image_files_passed_by_name_are_read(tmp_path, packing, reference):
    data = np.concatenate([BATCHES[name][0] for name in SPLIT_BATCHES["train"]])
    labels = np.concatenate([BATCHES[name][1] for name in SPLIT_BATCHES["train"]])
    (tmp_path / "all.bin").write_bytes(np.concatenate([labels[:, None].astype(np.uint8), data], 1).tobytes())
    files = {"train": tmp_path / "all.bin", "test": tmp_path / "reference/cifar-10-batches-py/test_batch"}
    prepared = prepare("image", files=files, cache=tmp_path / "cache")
    assert prepared.fingerprint == reference.fingerprint


# --- Pathfinder ------------------------------------------------------------------------------------------

FOLDER = "pathfinder32/curv_contour_length_14"
PIXELS = {(folder, image): np.random.default_rng([folder, image]).integers(0, 256, (32, 32), np.uint8) for folder in range(4) for image in range(15)}  # fmt: skip


def write_release(root: Path, combined: str | None = None) -> Path:
    """Write images and metadata; `combined` adds a combined.npy `beside` the other metadata, or writes it `alone`."""
    base = root / FOLDER
    (base / "metadata").mkdir(parents=True)
    for (folder, image), pixels in PIXELS.items():
        path = base / f"imgs/{folder}/sample_{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PILImage.fromarray(pixels).save(path)
    lines = {
        folder: [f"imgs/{f} sample_{i}.png {i} {(f + i) % 2} 1.8" for f, i in PIXELS if f == folder]
        for folder in range(4)
    }
    for folder, rows in lines.items():
        if combined is None:
            (base / f"metadata/{folder}.npy").write_text("\n".join(rows) + "\n")
        elif combined == "beside":
            np.save(base / f"metadata/{folder}.npy", np.array([row.split() for row in rows], "<U32"))
    if combined:
        table = np.array([row.split() for rows in lines.values() for row in rows], "<U32")
        np.save(base / "metadata/combined.npy", table)
    return base


def pathfinder_examples(prepared) -> dict[str, list]:
    splits = {"train": prepared.train, "validation": prepared.validation, "test": prepared.validation}
    return {
        name: [((split[row][0][0].tolist(),), split[row][1]) for row in range(len(split))]
        for name, split in splits.items()
    }


def test_every_registered_pathfinder_format_is_tested():
    assert [each.name for each in pathfinder_formats(32, "hard")] == [
        "image folders", *PATHFINDER_WRITERS, "files by name",
    ]  # fmt: skip


PATHFINDER_WRITERS = {
    "Skyformer pickles": lambda root, packing, rows: packing.pickles(
        root / "data/lra_processed", "lra-pathfinder32-curv_contour_length_14", rows
    ),
    "Nystromformer pickles": lambda root, packing, rows: packing.pickles(
        root, "pathfinder32-curv_contour_length_14", rows
    ),
    "MEGA packed text": lambda root, packing, rows: packing.mega(root / "lra" / FOLDER, rows),
    "npz": lambda root, packing, rows: packing.npz(root / FOLDER, rows),
    "Skyformer pickles without a difficulty": lambda root, packing, rows: packing.pickles(
        root / "lra_processed", "lra-pathfinder", rows
    ),
}


@pytest.mark.parametrize("format_name", PATHFINDER_WRITERS)
def test_every_pathfinder_format_gives_the_same_rows(format_name, tmp_path, packing):
    write_release(tmp_path / "release")
    release = prepare("pathfinder", root=tmp_path / "release", cache=tmp_path / "cache")
    PATHFINDER_WRITERS[format_name](tmp_path / "root", packing, pathfinder_examples(release))
    prepared = prepare("pathfinder", root=tmp_path / "root", cache=tmp_path / "cache")
    assert prepared.info.conventions["source"] == format_name
    assert content(prepared.train, prepared.validation) == content(release.train, release.validation)
    assert ("not named" in prepared.info.conventions["difficulty"]) == ("without" in format_name)


@pytest.mark.parametrize("combined", ["beside", "alone"])
def test_combined_metadata_is_read_alone_and_ignored_beside_others(combined, tmp_path):
    write_release(tmp_path / "release")
    write_release(tmp_path / "root", combined)
    release, combined_copy = (
        prepare("pathfinder", root=tmp_path / name, cache=tmp_path / "cache") for name in ("release", "root")
    )
    assert release.fingerprint == combined_copy.fingerprint
    assert release.info.conventions["rows"] == "60 of 200,000 rows"


def test_archive_order_does_not_change_the_fingerprint(tmp_path):
    write_release(tmp_path / "folder")
    with tarfile.open(tmp_path / "LRA_release.GZ", "w:gz") as tar:
        for path in sorted((tmp_path / "folder").rglob("*.*"), reverse=True):
            tar.add(path, Path("lra_release") / path.relative_to(tmp_path / "folder"))
    roots = ("folder", "LRA_release.GZ")
    fingerprints = {prepare("pathfinder", root=tmp_path / r, cache=tmp_path / "c").fingerprint for r in roots}
    assert len(fingerprints) == 1


def test_error_names_another_available_difficulty(tmp_path):
    write_release(tmp_path / "root")
    with pytest.raises(DataError, match="Found data of difficulty=hard") as error:
        prepare("pathfinder", root=tmp_path / "root", cache=tmp_path / "cache", difficulty="easy")
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("removed", ["file", "lines"])
def test_images_without_metadata_are_accepted_only_as_partial(removed, tmp_path):
    path = write_release(tmp_path / "root") / "metadata/3.npy"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5])) if removed == "lines" else path.unlink()
    missing = 15 if removed == "file" else 10
    with pytest.raises(DataError, match=rf"has no metadata \({missing} such images\)"):
        prepare("pathfinder", root=tmp_path / "root", cache=tmp_path / "cache")
    prepared = prepare("pathfinder", root=tmp_path / "root", cache=tmp_path / "cache", partial=True)
    assert prepared.info.conventions["rows"] == f"{60 - missing} of 200,000 rows"


def test_missing_images_are_accepted_only_as_partial(tmp_path):
    base = write_release(tmp_path / "root")
    (base / "imgs/2/sample_3.png").unlink()
    with pytest.raises(
        DataError, match=r"sample_3\.png is missing, but its metadata exist \(1 such images\)"
    ):
        prepare("pathfinder", root=tmp_path / "root", cache=tmp_path / "cache")
    prepared = prepare("pathfinder", root=tmp_path / "root", cache=tmp_path / "cache", partial=True)
    assert prepared.info.conventions["rows"] == "59 of 200,000 rows"
    assert "sample_3.png is missing" in prepared.info.conventions["partial"]
