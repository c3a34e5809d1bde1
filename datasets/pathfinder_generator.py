"""Draws Pathfinder images (Linsley et al. 2018) by the process and settings of the Long Range Arena.

Two long snakes of dashes grow from nearby seeds; distractor snakes fill the rest; one disc marks an end of a
snake, the other the far end of the same snake (label 1) or of the other one (label 0). The pixel recipe is the
one measured on real images: Lanczos resizing in float, maximum with the black canvas, brightest pixel = 255.
The published settings are followed but for what the real images contradict: dash contrast of 64 and 128, and
the number of distractors of 128.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil, cos, pi, radians, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Point = tuple[float, float]  # row, column
Pixel = tuple[int, int]
Floats = NDArray[np.float32]

ANTIALIASING = 2
MAX_DRAWS = 3  # of a dash, before its image is thrown away
MAX_ATTEMPTS = 5  # of a distractor, before it is left out
DEAD_END_WEIGHT = 1e-4
OVERLAP = 1.8  # of two dashes' masks
OCCUPIED = 0.3  # a pixel is free where its mask is no more
MIN_FREE_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Lengths in pixels. continuity scales the turn between dashes; contour_length counts a target's dashes."""

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
        """Dashes of a distractor."""
        return self.contour_length // 3

    @property
    def num_distractors(self) -> int:
        """Distractors tried; some find no room."""
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
class Drawing:
    """One image, its label, and how it was made.

    targets holds each target's points in order: its origin tip, then the head of every dash. markers are the two
    marked pixels; num_distractors is how many found room.
    """

    pixels: NDArray[np.uint8]
    label: int
    targets: tuple[list[Pixel], list[Pixel]]
    markers: tuple[Pixel, Pixel]
    num_distractors: int


@dataclass(frozen=True)
class _Stamp:
    """What a dash or a disc adds to the canvas, centred on its start pixel."""

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
def _dash(length: int, thickness: float, margin: int, end: Pixel) -> _Stamp:
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
    return _Stamp(_shrink(fine, 2 * half + 1), mask, footprint, half, _dilated(footprint, margin))


@cache
def _marker(radius: float) -> _Stamp:
    half = ceil(radius) + 3  # the reach of Lanczos
    fine = np.arange(-half * ANTIALIASING, (half + 1) * ANTIALIASING)
    disc = (fine[:, None] ** 2 + fine[None, :] ** 2 <= (radius * ANTIALIASING) ** 2).astype(np.float32)
    image = _shrink(disc, 2 * half + 1)
    return _Stamp(image, image, image > OCCUPIED, half, image > OCCUPIED)


class _DeadEnd(Exception):
    """A snake that cannot grow."""


@dataclass
class _Snake:
    """The growing end: the pivot before the last dash, its orientation, its stamp not yet in the mask."""

    pivot: Point
    orientation: float
    pending: tuple[_Stamp, Pixel]
    tail: Pixel
    heads: list[Pixel]


class _Canvas:
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
        # Where no dash may begin or end: outside the image, or within the margin of what is occupied.
        self.near = np.ones((side, side), np.bool_)
        clear = slice(self.border + 1 + margin, self.border + settings.side - 1 - margin)
        self.near[clear, clear] = False

    def _window(self, array: Floats, stamp: _Stamp, at: Pixel) -> Floats:
        row, column = at[0] + self.border - stamp.half, at[1] + self.border - stamp.half
        return array[row : row + 2 * stamp.half + 1, column : column + 2 * stamp.half + 1]

    def holds(self, point: Point) -> bool:
        return all(0 <= coordinate <= self.settings.side - 1 for coordinate in point)

    def stamp_of(self, orientation: float) -> _Stamp:
        length = self.settings.dash_length
        reach = length * ANTIALIASING
        end = (round(reach * sin(orientation)), round(reach * cos(orientation)))
        return _dash(length, self.settings.thickness, self.margin, end)

    def draw(self, stamp: _Stamp, at: Pixel, contrast: float) -> None:
        window = self._window(self.image, stamp, at)
        np.maximum(window, stamp.image * np.float32(contrast), out=window)

    def occupy(self, stamp: _Stamp, at: Pixel) -> None:
        window = self._window(self.mask, stamp, at)
        np.maximum(window, stamp.mask, out=window)
        half = stamp.half + self.margin
        row, column = at[0] + self.border - half, at[1] + self.border - half
        self.near[row : row + 2 * half + 1, column : column + 2 * half + 1] |= stamp.near

    def overlaps(self, stamp: _Stamp, at: Pixel) -> bool:
        return bool((self._window(self.mask, stamp, at) + stamp.mask).max() >= OVERLAP)

    def free(self) -> NDArray[np.bool_]:
        inner = slice(self.border, self.border + self.settings.side)
        return self.mask[inner, inner] <= OCCUPIED

    def free_for(self, stamp: _Stamp) -> NDArray[np.bool_]:
        """Pixels at which the stamp's footprint touches nothing occupied."""
        occupied = self.mask > OCCUPIED
        side = self.settings.side
        start = self.border - stamp.half
        touched = np.zeros((side, side), np.bool_)
        for row, column in np.argwhere(stamp.footprint):
            touched |= occupied[start + row : start + row + side, start + column : start + column + side]
        return ~touched

    def seed(self, tail: Pixel, orientation: float, contrast: float) -> _Snake:
        """A snake's first dash, from its tail."""
        length = self.settings.dash_length
        head = ceil(tail[0] + length * sin(orientation)), ceil(tail[1] + length * cos(orientation))
        if not (self.holds(tail) and self.holds(head)):
            raise _DeadEnd
        stamp = self.stamp_of(orientation)
        self.draw(stamp, tail, contrast)
        reach = length + self.margin
        pivot = head[0] - reach * sin(orientation), head[1] - reach * cos(orientation)
        return _Snake(pivot, orientation, (stamp, tail), tail, [head])

    def extend(self, random: np.random.Generator, snake: _Snake, contrast: float) -> None:
        """One more dash; raises _DeadEnd."""
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
            raise _DeadEnd
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
        raise _DeadEnd

    def _candidates(self, pivot: Point) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Rows, columns and directions of the clear pixels on the circle of radius length + margin round the pivot."""
        radius = self.settings.dash_length + self.margin
        corner = int(pivot[0]), int(pivot[1])
        offsets = _offsets(radius)
        down, right = offsets - (pivot[0] - corner[0]), offsets - (pivot[1] - corner[1])
        squared = (down * down)[:, None] + right * right
        # A pivot may lie outside of the image, but never by more than a dash and its margins.
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


def draw(random: np.random.Generator, settings: Settings) -> Drawing:
    """One image; a target that cannot grow to its full length throws the image away and begins it again."""
    label = int(random.integers(2))
    while True:
        canvas = _Canvas(settings, int(random.choice(settings.margins)))
        try:
            targets = _draw_targets(random, canvas)
        except _DeadEnd:
            continue
        break
    tips = [(target.tail, target.heads[-1]) for target in targets]
    num_distractors = _draw_distractors(random, canvas)
    first = int(random.integers(2))
    markers = tips[first][0], tips[first if label else 1 - first][1]
    for at in markers:
        canvas.draw(_marker(settings.marker_radius), at, 1.0)
    inner = slice(canvas.border, canvas.border + settings.side)
    image = canvas.image[inner, inner]
    pixels = (image.astype(np.float64) * 255 / image.max()).astype(np.uint8)  # floor, as the real ones are
    return Drawing(
        pixels,
        label,
        ([targets[0].tail, *targets[0].heads], [targets[1].tail, *targets[1].heads]),
        markers,
        num_distractors,
    )


def _draw_targets(random: np.random.Generator, canvas: _Canvas) -> tuple[_Snake, _Snake]:
    settings = canvas.settings
    away = 2 * settings.seed_distance
    orientation = radians(int(random.integers(-180, 180)))
    free = canvas.free_for(canvas.stamp_of(orientation))
    free[:away], free[-away:], free[:, :away], free[:, -away:] = False, False, False, False
    tail = _pick(random, free)
    one = canvas.seed(tail, orientation, settings.target_contrast)
    direction = radians(int(random.integers(-180, 180)))
    distance = settings.seed_distance
    other_tail = ceil(tail[0] + distance * sin(direction)), ceil(tail[1] + distance * cos(direction))
    orientation = radians(int(random.integers(-180, 180)))
    other = canvas.seed(other_tail, orientation, settings.target_contrast)
    for _ in range(settings.contour_length - 1):
        canvas.extend(random, one, settings.target_contrast)
        canvas.extend(random, other, settings.target_contrast)
    canvas.occupy(*one.pending)
    canvas.occupy(*other.pending)
    return one, other


def _draw_distractors(random: np.random.Generator, canvas: _Canvas) -> int:
    """Draw them and return how many found room."""
    settings = canvas.settings
    found = 0
    for _ in range(settings.num_distractors):
        for _ in range(MAX_ATTEMPTS):
            if canvas.free().mean() < MIN_FREE_SHARE:
                return found
            before = canvas.image.copy(), canvas.mask.copy(), canvas.near.copy()
            try:
                orientation = radians(int(random.integers(-180, 180)))
                tail = _pick(random, canvas.free_for(canvas.stamp_of(orientation)))
                snake = canvas.seed(tail, orientation, settings.distractor_contrast)
                for _ in range(settings.distractor_length - 1):
                    canvas.extend(random, snake, settings.distractor_contrast)
                canvas.occupy(*snake.pending)
            except _DeadEnd:
                canvas.image, canvas.mask, canvas.near = before
                continue
            found += 1
            break
    return found


def _pick(random: np.random.Generator, allowed: NDArray[np.bool_]) -> Pixel:
    rows, columns = np.nonzero(allowed)
    if not len(rows):
        raise _DeadEnd
    index = int(random.integers(len(rows)))
    return int(rows[index]), int(columns[index])


def draw_chunk(
    chunk: int, *, seed: int, settings: Settings, num_images: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images, side, side) pixels and labels; the same (seed, chunk) gives the same images anywhere."""
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(chunk,)))
    drawings = [draw(random, settings) for _ in range(num_images)]
    return np.array([drawing.pixels for drawing in drawings]), np.array(
        [drawing.label for drawing in drawings]
    )
