"""Generates Pathfinder images (Linsley et al. 2018) by the process and settings of the Long Range Arena.

Two long snakes of dashes grow from nearby seeds; distractor snakes fill the rest. One disc marks an end of a snake, the
other the far end of the same snake (label 1) or of the other one (label 0). The rendering was determined from real images:
Lanczos resizing in float, maximum with the black canvas, brightest pixel = 255. The published settings are used, except
where real images contradict them: the contrast of dashes for 64 and 128 pixels, and the number of distractors for 128.
"""

from dataclasses import dataclass
from math import ceil, cos, radians, sin

import numpy as np
from numpy.typing import NDArray

from proxytune.datasets.pathfinder_canvas import Canvas, DeadEnd, Pixel, Settings, Snake, marker

MAX_ATTEMPTS = 5  # per distractor, before it is skipped
MIN_FREE_SHARE = 0.01


@dataclass(frozen=True)
class Drawing:
    """One image, its label, and its construction.

    targets are each target's points in order: its origin tip, then the head of every dash. markers are the two marked
    pixels; num_distractors is the number of distractors that fitted.
    """

    pixels: NDArray[np.uint8]
    label: int
    targets: tuple[list[Pixel], list[Pixel]]
    markers: tuple[Pixel, Pixel]
    num_distractors: int


def draw(random: np.random.Generator, settings: Settings) -> Drawing:
    """Draw one image. If a target cannot grow to its full length, the image is discarded and started again."""
    label = int(random.integers(2))
    while True:
        canvas = Canvas(settings, int(random.choice(settings.margins)))
        try:
            targets = _draw_targets(random, canvas)
        except DeadEnd:
            continue
        break
    tips = [(target.tail, target.heads[-1]) for target in targets]
    num_distractors = _draw_distractors(random, canvas)
    first = int(random.integers(2))
    markers = tips[first][0], tips[first if label else 1 - first][1]
    for at in markers:
        canvas.draw(marker(settings.marker_radius), at, 1.0)
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


def _draw_targets(random: np.random.Generator, canvas: Canvas) -> tuple[Snake, Snake]:
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


def _draw_distractors(random: np.random.Generator, canvas: Canvas) -> int:
    """Draw the distractors and return the number of those that fitted."""
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
            except DeadEnd:
                canvas.image, canvas.mask, canvas.near = before
                continue
            found += 1
            break
    return found


def _pick(random: np.random.Generator, allowed: NDArray[np.bool_]) -> Pixel:
    rows, columns = np.nonzero(allowed)
    if not len(rows):
        raise DeadEnd
    index = int(random.integers(len(rows)))
    return int(rows[index]), int(columns[index])


def draw_chunk(
    chunk: int, *, seed: int, settings: Settings, num_images: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(images, side, side) pixels and labels; deterministic in (seed, chunk)."""
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(chunk,)))
    drawings = [draw(random, settings) for _ in range(num_images)]
    return np.array([drawing.pixels for drawing in drawings]), np.array(
        [drawing.label for drawing in drawings]
    )
