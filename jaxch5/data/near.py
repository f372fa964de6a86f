"""Finds near-duplicates: pictures that differ only in encoding, size, a border or a small crop.

Each picture has a descriptor, which consists of the picture's low frequencies. The descriptors are
compared to find the few pairs in which one picture may be a crop of the other. The pictures of
these pairs are then aligned and compared in detail. Mirrored and rotated pictures count as
different.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations, product

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from rich.console import Console

from jaxch5.util.text import progress_bar

# Side of a thumbnail, and the smallest side of a picture that gets one, in pixels.
SIDE = 32
# Side, in pixels, to which a picture is resized to find borders, and the smallest side that the
# content within the borders may have.
SEARCHED, LEAST_CONTENT = 96, 12
# Largest spread of levels that a row or column of a border may have; the value allows for JPEG
# artifacts.
BORDER_RANGE = 24
# Smallest standard deviation of a thumbnail's details, in levels.
CONTRAST = 3.0

# Where a view begins and ends along a side of a picture, as shares of the side. A view takes in the
# whole side, or a part of it that a crop may have kept.
WHOLE = (0.0, 1.0)
KEPT = ((0.0, 0.9), (0.05, 0.95), (0.1, 1.0))
VIEWS = ((WHOLE, WHOLE), *product(KEPT, KEPT))
# Number of frequencies along a side that a descriptor has for brightness, and for each of the two
# opponent colours.
BRIGHTNESS, COLOUR = 8, 4
# Matrix that converts red, green and blue to brightness and the two opponent colours.
OPPONENT = np.array([[0.299, 0.5, -0.25], [0.587, -0.5, -0.25], [0.114, 0, 0.5]], np.float32)
# Two pictures are compared in detail if the correlation of their descriptors is at least CANDIDATE.
# After FAILURES comparisons that found no match, a picture's other candidates are passed over: all
# X-rays, for example, have similar descriptors.
CANDIDATE, FAILURES = 0.87, 8
# Number of pictures whose correlations with all others are computed at a time.
BLOCK = 256

REGISTERED = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-4)
# Smallest share of a thumbnail that both pictures must cover.
OVERLAP = 0.7
# The correlation that the details of two pictures must reach: as a coefficient, and in standard
# deviations of the correlation that would arise by chance (Fisher's z).
NEAR, SURE = 0.95, 10.0

Thumbnail = UInt8[np.ndarray, "32 32 3"]
Window = tuple[float, float]


def thumbnail(pixels: UInt8[np.ndarray, "height width 3"]) -> Thumbnail | None:
    """Returns a square thumbnail without borders, which represents the picture in comparisons.

    Returns:
        The thumbnail; None if the picture is too small or too plain to be told apart from others.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
        >>> thumbnail(noise).shape, thumbnail(noise[:20]), thumbnail(noise // 99)
        ((32, 32, 3), None, None)
    """
    if min(pixels.shape[:2]) < SIDE:
        return None
    small = cv2.resize(pixels, (SEARCHED, SEARCHED), interpolation=cv2.INTER_AREA)
    content = _without_borders(small)
    if min(content.shape[:2]) < LEAST_CONTENT:
        return None
    found = cv2.resize(content, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return found if _details(found).std() >= CONTRAST else None


def find_near(
    thumbnails: Sequence[Thumbnail | None], console: Console | None = None
) -> list[list[int]]:
    """Finds groups of items that show the same picture, as indices into the sequence.

    Each group has one picture that all the others match, so a chain of small changes cannot put
    different pictures into one group. A picture may be in several groups. The time grows with the
    square of the number of pictures: 10,000 pictures take seconds, and 100,000 take about ten
    minutes.

    Args:
        thumbnails: Thumbnail of each picture, which takes 3 kB; or None, if the picture is to be
            in no group.
        console: Where the progress bar is drawn; None means standard error.

    Example:
        >>> noise = np.random.default_rng(0).integers(0, 256, (3, 12, 12, 3), np.uint8)
        >>> large = [cv2.resize(one, (120, 90)) for one in noise]
        >>> find_near([thumbnail(one) for one in (*large, large[1][:85, 8:])])
        [[1, 3]]
    """
    items = [item for item, one in enumerate(thumbnails) if one is not None]
    if len(items) < 2:
        return []
    compared = np.stack([one for one in thumbnails if one is not None])
    full = _descriptors(compared, VIEWS[0])
    partners: dict[int, set[int]] = defaultdict(set)
    with progress_bar(console) as progress:
        blocks = range(0, len(items), BLOCK)
        for start in progress.track(blocks, description="comparing pictures"):
            for whole, candidates in _candidates(compared, start, full):
                failures = 0
                for part, view in candidates:
                    # If both pictures match a third one, they need not be compared.
                    if part in partners[whole] or partners[whole] & partners[part]:
                        continue
                    if _is_near(compared[whole], compared[part], VIEWS[view]):
                        partners[whole].add(part)
                        partners[part].add(whole)
                    elif (failures := failures + 1) == FAILURES:
                        break
    return [[items[place] for place in group] for group in _groups(partners)]


def _without_borders(
    picture: UInt8[np.ndarray, "side side 3"],
) -> UInt8[np.ndarray, "height width 3"]:
    """Cuts off the uniform rows and columns at each edge, until none are left."""
    axis, unchanged = 0, 0
    while unchanged < 2 and picture.size:
        spread = np.ptp(picture, axis=1 - axis).max(axis=-1)
        inside = np.flatnonzero(spread > BORDER_RANGE)
        first, last = (inside[0], inside[-1]) if len(inside) else (len(spread), 0)
        # The row in which a border ends is a mixture of border and picture, so it is cut off too.
        begin, end = first + (first > 0), last + (last == len(spread) - 1)
        unchanged = unchanged + 1 if end - begin == len(spread) else 0
        picture = picture.take(range(begin, end), axis)
        axis = 1 - axis
    return picture


def _details(
    thumbnail: UInt8[np.ndarray, "32 32 3"],
) -> Float32[np.ndarray, "32 32 3"]:
    """Returns a thumbnail without its coarse structure, in which many pictures are alike."""
    smooth = cv2.GaussianBlur(thumbnail.astype(np.float32), (3, 3), 0)
    return smooth - cv2.GaussianBlur(smooth, (0, 0), 2)


def _number_of_details(thumbnail: Thumbnail) -> float:
    """Returns the number of frequencies that the details are spread over: few in a line drawing."""
    power = np.abs(np.fft.fft2(_details(thumbnail).mean(axis=-1))) ** 2
    return float(power.sum() ** 2 / (power**2).sum())


def _cosines(window: Window, count: int) -> Float32[np.ndarray, "count 32"]:
    """Returns the matrix that maps a whole row of pixels to the cosine transform of its window."""
    begin, end = window
    edges = np.clip(np.arange(SIDE + 1) / SIDE, begin, end)
    centres = ((edges[1:] + edges[:-1]) / 2 - begin) / (end - begin)
    waves = np.cos(np.pi * np.arange(count)[:, None] * centres)
    scale = np.where(np.arange(count) > 0, np.sqrt(2), 1)[:, None]
    return (waves * scale * np.diff(edges) / (end - begin)).astype(np.float32)


def _descriptors(
    thumbnails: UInt8[np.ndarray, "items 32 32 3"], view: tuple[Window, Window]
) -> Float32[np.ndarray, "items frequencies"]:
    """Returns the low frequencies of each picture's view, balanced in power, as unit vectors."""
    rows, columns = (_cosines(window, BRIGHTNESS) for window in view)
    colours = thumbnails.astype(np.float32) @ OPPONENT
    transformed = np.einsum("ky,nyxc,lx->nckl", rows, colours, columns, optimize=True)
    place = np.arange(BRIGHTNESS)
    radius, order = np.hypot.outer(place, place), np.add.outer(place, place)
    weight = np.sqrt(radius) * (order < BRIGHTNESS)
    # The mean colour is part of the descriptor; the mean brightness is not.
    coloured = np.sqrt(np.maximum(radius, 0.5)) * (order < COLOUR)
    weights = np.stack([weight, coloured, coloured]).astype(np.float32)
    found = (transformed * weights)[:, weights > 0]
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)


def _candidates(
    thumbnails: UInt8[np.ndarray, "items 32 32 3"],
    start: int,
    full: Float32[np.ndarray, "items frequencies"],
) -> Iterator[tuple[int, Iterator[tuple[int, int]]]]:
    """Yields a block's pictures, each with the others that may be views of it, likeliest first."""
    block = thumbnails[start : start + BLOCK]
    views = np.stack([_descriptors(block, view) for view in VIEWS])
    likeness = views[0] @ full.T
    for view in views[1:]:
        np.maximum(likeness, view @ full.T, out=likeness)
    places = np.arange(len(block))
    likeness[places, start + places] = -1
    for row in np.flatnonzero(likeness.max(axis=1) >= CANDIDATE):
        parts = np.flatnonzero(likeness[row] >= CANDIDATE)
        parts = parts[np.argsort(-likeness[row, parts], kind="stable")]
        found = (views[:, row] @ full[parts].T).argmax(axis=0)
        yield start + int(row), zip(parts.tolist(), found.tolist(), strict=True)


def _is_near(whole: Thumbnail, part: Thumbnail, view: tuple[Window, Window]) -> bool:
    """Aligns two thumbnails, starting from a given view, and checks whether their details match."""
    template, grey = (cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (part, whole))
    (top, bottom), (left, right) = view
    spans, begins = np.array([right - left, bottom - top]), np.array([left, top])
    # Centres of pixels are at half integers.
    start = np.c_[np.diag(spans), begins * SIDE + (spans - 1) / 2].astype(np.float32)
    try:
        _, found = cv2.findTransformECC(
            template, grey, start, cv2.MOTION_AFFINE, REGISTERED, np.ones_like(grey), 3
        )
    except cv2.error:
        # No alignment was found.
        return False
    size, pulled = [SIDE, SIDE], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    covered = cv2.warpAffine(np.ones(size, np.float32), found, size, flags=pulled) > 0.99
    if covered.mean() < OVERLAP:
        return False
    moved = cv2.warpAffine(whole, found, size, flags=pulled, borderMode=cv2.BORDER_REPLICATE)
    likeness = _correlation(_details(part)[covered], _details(moved)[covered])
    if likeness < NEAR:
        return False
    details = min(map(_number_of_details, (whole, part)))
    return float(np.arctanh(min(likeness, 0.9999)) * np.sqrt(max(0, details - 3))) >= SURE


def _correlation(one: Float[np.ndarray, "pixels 3"], other: Float[np.ndarray, "pixels 3"]) -> float:
    one, other = (values - values.mean(axis=0) for values in (one, other))
    return float((one * other).sum() / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-6))


def _groups(partners: Mapping[int, Collection[int]]) -> list[list[int]]:
    """Groups matching pairs around the pictures with most partners, until no pair is left over."""
    left = {frozenset((one, other)) for one, others in partners.items() for other in others}
    groups = []
    for centre in sorted(partners, key=lambda one: (-len(partners[one]), one)):
        if others := [other for other in partners[centre] if {centre, other} in left]:
            group = sorted((centre, *others))
            left.difference_update(map(frozenset, combinations(group, 2)))
            groups.append(group)
    return sorted(groups)
