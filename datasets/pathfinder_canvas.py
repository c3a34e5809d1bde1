"""The canvas on which Pathfinder's snakes are drawn: rendering of dashes and discs, and the occupied pixels.

The rendering was determined from real images: Lanczos resizing in float, maximum with the black canvas.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil, cos, pi, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]  # row, column
Pixel = tuple[int, int]
Floats = NDArray[np.float32]

ANTIALIASING = 2
MAX_DRAWS = 3  # attempts per dash, before the image is discarded
DEAD_END_WEIGHT = 1e-4
OVERLAP = 1.8  # of two dashes' masks
OCCUPIED = 0.3  # a pixel is free if its mask is at most this


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Lengths in pixels. continuity scales the turn between dashes; contour_length is the number of a target's dashes."""

    side: int
    dash_length: int
    thickness: float
    margins: tuple[int, ...]
    marker_radius: float
    seed_distance: int
    continuity: float
    target_contrast: float
    distractor_contrast: float
    contour_length: int
    distractor_budget: int

    @property
    def distractor_length(self) -> int:
        """Number of dashes of a distractor."""
        return self.contour_length // 3

    @property
    def num_distractors(self) -> int:
        """Number of distractors that are attempted; some do not fit."""
        return self.distractor_budget // self.distractor_length


def settings(side: int, contour_length: int) -> Settings:
    """The arena's settings for images of 32, 64 or 128 pixels and contours of 6, 9 or 14 dashes."""
    if side == 32:
        return Settings(
            side=32, dash_length=2, thickness=0.5, margins=(1,), marker_radius=1.5, seed_distance=7, continuity=1.0,
            target_contrast=1.5, distractor_contrast=2.0, contour_length=contour_length, distractor_budget=20,
        )  # fmt: skip
    if side == 64:
        return Settings(
            side=64, dash_length=5, thickness=1.0, margins=(1,), marker_radius=2.5, seed_distance=12, continuity=1.8,
            target_contrast=0.925, distractor_contrast=0.925, contour_length=contour_length, distractor_budget=22,
        )  # fmt: skip
    assert side == 128
    return Settings(
        side=128, dash_length=5, thickness=1.5, margins=(2, 3), marker_radius=3.0, seed_distance=20, continuity=1.8,
        target_contrast=0.82, distractor_contrast=0.82, contour_length=contour_length, distractor_budget=70,
    )  # fmt: skip


@dataclass(frozen=True)
class Stamp:
    """The rendering of a dash or a disc, centred on its start pixel."""

    image: Floats
    mask: Floats
    footprint: NDArray[np.bool_]
    half: int
    near: NDArray[np.bool_]  # the footprint dilated by the margin, on a window that much larger


def _shrink(fine: Floats, side: int) -> Floats:
    """Lanczos in float, unclipped."""
    return np.asarray(Image.fromarray(fine).resize((side, side), Image.Resampling.LANCZOS), np.float32)


def _dilated(array: NDArray[Any], radius: int) -> NDArray[Any]:
    """The maximum over a disc, on an array that is larger by the radius on each side."""
    rows, columns = np.mgrid[: 2 * radius + 1, : 2 * radius + 1]
    disc = np.argwhere((rows - radius) ** 2 + (columns - radius) ** 2 <= radius**2)
    padded = np.pad(array, 2 * radius)
    side = len(array) + 2 * radius
    return np.asarray(
        np.max([padded[row : row + side, column : column + side] for row, column in disc], axis=0)
    )


@cache
def _dash(length: int, thickness: float, margin: int, end: Pixel) -> Stamp:
    """A dash from the centre to `end`, in pixels of the fine canvas from the centre."""
    half = length + ceil(thickness) + margin
    fine_side = 2 * half * ANTIALIASING + 1
    centre = half * ANTIALIASING
    canvas = Image.new("F", (fine_side, fine_side), 0)
    ImageDraw.Draw(canvas).line(
        [(centre, centre), (centre + end[1], centre + end[0])], fill=1, width=round(thickness * ANTIALIASING)
    )
    fine = np.asarray(canvas, np.float32)
    reach = margin * ANTIALIASING
    mask = _shrink(_dilated(fine, reach)[reach:-reach, reach:-reach], 2 * half + 1)
    footprint = mask > OCCUPIED
    return Stamp(_shrink(fine, 2 * half + 1), mask, footprint, half, _dilated(footprint, margin))


@cache
def marker(radius: float) -> Stamp:
    half = ceil(radius) + 3  # the reach of Lanczos
    fine = np.arange(-half * ANTIALIASING, (half + 1) * ANTIALIASING)
    disc = (fine[:, None] ** 2 + fine[None, :] ** 2 <= (radius * ANTIALIASING) ** 2).astype(np.float32)
    image = _shrink(disc, 2 * half + 1)
    return Stamp(image, image, image > OCCUPIED, half, image > OCCUPIED)


class DeadEnd(Exception):
    """The snake cannot grow."""


@dataclass
class Snake:
    """The growing end of a snake: the pivot before the last dash, its orientation, its stamp not yet in the mask."""

    pivot: Point
    orientation: float
    pending: tuple[Stamp, Pixel]
    tail: Pixel
    heads: list[Pixel]


class Canvas:
    """An image and its mask, with a border wide enough that no stamp leaves the arrays."""

    def __init__(self, settings: Settings, margin: int) -> None:
        self.settings = settings
        self.margin = margin
        self.border = (
            settings.dash_length
            + ceil(settings.thickness)
            + max(settings.margins)
            + ceil(settings.marker_radius)
            + 4
        )
        side = settings.side + 2 * self.border
        self.image = np.zeros((side, side), np.float32)
        self.mask = np.ones((side, side), np.float32)
        inner = slice(self.border + 1, self.border + settings.side - 1)  # one pixel of padding is occupied
        self.mask[inner, inner] = 0
        # Pixels at which no dash may begin or end: outside the image, or within the margin of occupied pixels.
        self.near = np.ones((side, side), np.bool_)
        clear = slice(self.border + 1 + margin, self.border + settings.side - 1 - margin)
        self.near[clear, clear] = False

    def _window(self, array: Floats, stamp: Stamp, at: Pixel) -> Floats:
        row, column = at[0] + self.border - stamp.half, at[1] + self.border - stamp.half
        return array[row : row + 2 * stamp.half + 1, column : column + 2 * stamp.half + 1]

    def holds(self, point: Point) -> bool:
        return all(0 <= coordinate <= self.settings.side - 1 for coordinate in point)

    def stamp_of(self, orientation: float) -> Stamp:
        length = self.settings.dash_length
        reach = length * ANTIALIASING
        end = (round(reach * sin(orientation)), round(reach * cos(orientation)))
        return _dash(length, self.settings.thickness, self.margin, end)

    def draw(self, stamp: Stamp, at: Pixel, contrast: float) -> None:
        window = self._window(self.image, stamp, at)
        np.maximum(window, stamp.image * np.float32(contrast), out=window)

    def occupy(self, stamp: Stamp, at: Pixel) -> None:
        window = self._window(self.mask, stamp, at)
        np.maximum(window, stamp.mask, out=window)
        half = stamp.half + self.margin
        row, column = at[0] + self.border - half, at[1] + self.border - half
        self.near[row : row + 2 * half + 1, column : column + 2 * half + 1] |= stamp.near

    def overlaps(self, stamp: Stamp, at: Pixel) -> bool:
        return bool((self._window(self.mask, stamp, at) + stamp.mask).max() >= OVERLAP)

    def free(self) -> NDArray[np.bool_]:
        inner = slice(self.border, self.border + self.settings.side)
        return self.mask[inner, inner] <= OCCUPIED

    def free_for(self, stamp: Stamp) -> NDArray[np.bool_]:
        """Pixels at which the stamp's footprint does not touch occupied pixels."""
        occupied = self.mask > OCCUPIED
        side = self.settings.side
        start = self.border - stamp.half
        touched = np.zeros((side, side), np.bool_)
        for row, column in np.argwhere(stamp.footprint):
            touched |= occupied[start + row : start + row + side, start + column : start + column + side]
        return ~touched

    def seed(self, tail: Pixel, orientation: float, contrast: float) -> Snake:
        """A snake's first dash, from its tail."""
        length = self.settings.dash_length
        head = ceil(tail[0] + length * sin(orientation)), ceil(tail[1] + length * cos(orientation))
        if not (self.holds(tail) and self.holds(head)):
            raise DeadEnd
        stamp = self.stamp_of(orientation)
        self.draw(stamp, tail, contrast)
        reach = length + self.margin
        pivot = head[0] - reach * sin(orientation), head[1] - reach * cos(orientation)
        return Snake(pivot, orientation, (stamp, tail), tail, [head])

    def extend(self, random: np.random.Generator, snake: Snake, contrast: float) -> None:
        """Add one dash. Raises DeadEnd if there is no room."""
        length, margin = self.settings.dash_length, self.margin
        stride = length + 2 * margin
        pivot = (
            snake.pivot[0] + stride * sin(snake.orientation),
            snake.pivot[1] + stride * cos(snake.orientation),
        )
        rows, columns, orientations = self._candidates(pivot)
        turns = np.abs((orientations - snake.orientation + pi) % (2 * pi) - pi)
        cumulative = np.cumsum(np.cos(np.minimum(self.settings.continuity * turns, pi / 2)) ** 2)
        if not len(cumulative) or cumulative[-1] < DEAD_END_WEIGHT:
            raise DeadEnd
        for _ in range(MAX_DRAWS):
            choice = int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))
            choice = min(choice, len(cumulative) - 1)
            head = int(rows[choice]), int(columns[choice])
            stamp = self.stamp_of(float(orientations[choice]) + pi)  # drawn from the head back to the pivot
            if not self.overlaps(stamp, head):
                self.draw(stamp, head, contrast)
                self.occupy(*snake.pending)
                snake.pivot, snake.orientation, snake.pending = (
                    pivot,
                    float(orientations[choice]),
                    (stamp, head),
                )
                snake.heads.append(head)
                return
        raise DeadEnd

    def _candidates(self, pivot: Point) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Rows, columns and directions of the clear pixels on the circle of radius length + margin around the pivot."""
        radius = self.settings.dash_length + self.margin
        corner = int(pivot[0]), int(pivot[1])
        offsets = _offsets(radius)
        down, right = offsets - (pivot[0] - corner[0]), offsets - (pivot[1] - corner[1])
        squared = (down * down)[:, None] + right * right
        # A pivot may be outside the image, but by at most a dash and its margins.
        top, left = corner[0] + self.border - radius - 1, corner[1] + self.border - radius - 1
        near = self.near[top : top + len(offsets), left : left + len(offsets)]
        row, column = ((squared > (radius - 0.5) ** 2) & (squared < (radius + 0.5) ** 2) & ~near).nonzero()
        return (
            row + (corner[0] - radius - 1),
            column + (corner[1] - radius - 1),
            np.arctan2(down[row], right[column]),
        )


@cache
def _offsets(radius: int) -> NDArray[np.int64]:
    return np.arange(-radius - 1, radius + 3)
