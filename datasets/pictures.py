"""Small pictures: decoding of PNG and JPEG, conversion to grey levels and to token ids."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from proxytune.datasets.errors import DataError


class DamagedPicture(DataError):
    """A picture cannot be decoded completely."""


def decode_picture(content: bytes, where: str, side: int, mode: str) -> NDArray[np.uint8]:
    """A PNG or JPEG of side x side pixels as (side, side) in mode L or (side, side, 3) in mode RGB.

    Raises DataError for another size, DamagedPicture if it cannot be decoded. The message begins with where.
    """
    try:
        picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        pixels = np.asarray(picture.convert(mode)) if picture.size == (side, side) else None
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({str(error).splitlines()[0]})"
        raise DamagedPicture(f"{where}: not a readable PNG or JPEG{why}") from None
    if pixels is None:
        raise DataError(
            f"{where}: {picture.size[0]} x {picture.size[1]} pixels, {side} x {side} are expected"
        )
    return pixels


def grey(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(rows, 3, pixels) red, green, blue to (rows, pixels), as TensorFlow does: floor(255.5 x luma of the unit range)."""
    weights = np.array([0.2989, 0.587, 0.114], np.float32)
    luma = np.tensordot(weights, planes.astype(np.float32) / np.float32(255), axes=(0, 1))
    return np.minimum(luma * np.float32(255.5), 255).astype(np.uint8)


def shifted(pixels: NDArray[np.integer], *, black_is_padding: bool) -> NDArray[np.integer]:
    """Token ids of pixels: the pixels, or the pixels plus one so that 0 is free for padding."""
    return pixels if black_is_padding else pixels.astype(np.uint16) + np.uint16(1)


def black_convention(*, black_is_padding: bool) -> str:
    """Description of the convention in TaskInfo."""
    return (
        "pixel = id; black (0) is masked as padding (protocol)"
        if black_is_padding
        else "pixel + 1 = id; nothing is masked"
    )
