"""Connected regions of a heat map at all thresholds at once, in compiled loops.

Raising the threshold only ever shrinks and splits regions. So the picture is divided once into
*basins* (the pixels from which climbing ends on the same peak), the statistics of every basin above
every level are counted once, and basins are merged in the order of the passes between them.

Numba compiles this when it is first asked for, and keeps the result beside the module: only what
cuts maps at many thresholds imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from featlab.system.machine import compiled

_UNREACHED = np.iinfo(np.int32).max
# Columns of the statistics of a basin above a level.
_XMIN, _FIRST, _XMAX, _YMAX, _AREA, _TWICE = range(6)


@dataclass(frozen=True)
class Regions:
    """The 8-connected regions of ``pixels > cut`` for several cuts.

    Attributes
    ----------
    statistics : ndarray of shape (r, levels, 6), int32
        Of each region above each of the cuts' levels: xmin, first pixel (uppermost, then leftmost;
        its number in the picture), xmax and ymax (exclusive), number of pixels, and twice what the
        polygon through the centres of the border pixels encloses, less holes: 0 for a line of
        pixels. What OpenCV's ``contourArea`` is for a region without holes. No pixels: no region.
    level : ndarray of shape (c,), int
        Which level each cut is.
    columns : int
        Width of the picture.
    """

    statistics: np.ndarray
    level: np.ndarray
    columns: int

    def largest(self, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The box of the largest region of each cut, and how the boxes match the true ones.

        Largest is that which encloses most; among equals the last, as OpenCV lists them.

        Parameters
        ----------
        truth : ndarray of shape (m, 4), float
            Pixels; none gives an IoU of 0.

        Returns
        -------
        boxes : ndarray of shape (c, 4)
            Pixels, the last two exclusive; zeros where there is no region.
        iou, iou_any : ndarray of shape (c,)
            Best IoU with a true box, of that box and of any region's.
        """
        boxes, iou, iou_any = _largest(self.statistics, self.columns, truth)
        return boxes[self.level], iou[self.level], iou_any[self.level]


def all_regions(
    pixels: np.ndarray, cuts: np.ndarray, *, height: np.ndarray | None = None
) -> Regions:
    """All regions (8 neighbours) of ``pixels > cut``, for each cut.

    Parameters
    ----------
    pixels : ndarray of shape (h, w), uint8
    cuts : ndarray of shape (t,), uint8
        In any order.
    height : ndarray of shape (h, w), float32, optional
        ``pixels`` before rounding. It changes nothing in the result and saves time: less is flat.

    Returns
    -------
    Regions

    Notes
    -----
    Exact. Climbing never leaves ``pixels > cut``, so a pixel is connected with its peak; and two
    basins are connected at a cut exactly if a chain of passes above the cut joins them.
    """
    levels, position, exceeded = _levels_of(np.asarray(cuts, dtype=np.uint8).tobytes())
    heights = np.ascontiguousarray(pixels if height is None else height, dtype=np.float32)
    statistics = _regions(_levels(pixels, exceeded), heights, len(levels))[:, 1:]
    return Regions(statistics, position, pixels.shape[1])


@lru_cache(
    maxsize=16
)  # the brightest pixel of nearly every map is 255, and so its cuts are the same
def _levels_of(cuts: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cuts' levels, the place of each cut among them, and each pixel's level.

    The last is the number of cuts that it exceeds.
    """
    levels, position = np.unique(np.frombuffer(cuts, np.uint8), return_inverse=True)
    return levels, position, np.searchsorted(levels, np.arange(256)).astype(np.uint8)


@partial(compiled, fast=True)
def heat_on(fine: np.ndarray, mask: np.ndarray) -> tuple[int, int, float, float]:
    """Pixels that are 1 in all and in a mask, and the sums of the same map, single precision."""
    peaks, hits, inside, total = 0, 0, np.float32(0), np.float32(0)
    for y in range(len(fine)):
        # By rows: a sum of all would lose digits.
        row_inside, row_total = np.float32(0), np.float32(0)
        for x in range(fine.shape[1]):
            row_total += fine[y, x]
            row_inside += fine[y, x] * mask[y, x]
            peaks += fine[y, x] == 1
            hits += (fine[y, x] == 1) & mask[y, x]
        inside, total = inside + row_inside, total + row_total
    return peaks, hits, float(inside), float(total)


@compiled
def _levels(pixels: np.ndarray, exceeded: np.ndarray) -> np.ndarray:
    """The level of each pixel; numpy's own look-up takes three times as long."""
    level = np.empty_like(pixels)
    for y in range(len(pixels)):
        for x in range(pixels.shape[1]):
            level[y, x] = exceeded[pixels[y, x]]
    return level


@compiled
def _largest(
    statistics: np.ndarray, columns: int, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By level: the box that encloses most, its IoU with the best true box, the best of any."""
    regions, levels = statistics.shape[:2]
    boxes, iou, iou_any = np.zeros((levels, 4)), np.zeros(levels), np.zeros(levels)
    for top in range(levels):
        most, last = -1, -1
        for region in range(regions):
            one = statistics[region, top]
            if one[_AREA] == 0:
                continue
            xmin, ymin, xmax, ymax = one[_XMIN], one[_FIRST] // columns, one[_XMAX], one[_YMAX]
            best = 0.0
            for true in truth:
                width = min(float(xmax), true[2]) - max(float(xmin), true[0])
                height = min(float(ymax), true[3]) - max(float(ymin), true[1])
                if width > 0 and height > 0:
                    area = float(xmax - xmin) * float(ymax - ymin)
                    shared = width * height
                    solid = (true[2] - true[0]) * (true[3] - true[1])
                    best = max(best, shared / (area + solid - shared))
            iou_any[top] = max(iou_any[top], best)
            if one[_TWICE] > most or (one[_TWICE] == most and one[_FIRST] > last):
                most, last, iou[top] = one[_TWICE], one[_FIRST], best
                boxes[top, 0], boxes[top, 1], boxes[top, 2], boxes[top, 3] = xmin, ymin, xmax, ymax
    return boxes, iou, iou_any


@compiled
def _regions(level: np.ndarray, height: np.ndarray, n_levels: int) -> np.ndarray:
    """Statistics ``(regions, levels + 1, 6)`` from each level up; an area of 0 is no region."""
    row, start, peak = _slopes(height)
    basin, n_basins = _basins(level, height, row, start, peak)
    above = np.zeros((n_basins, n_levels + 1, 6), dtype=np.int32)
    above[:, :, _XMIN : _FIRST + 1] = _UNREACHED
    _add_outlines(above, level, row, start, peak, basin)
    _add_enclosed(above, level, row, start, basin)
    for one in range(n_basins):
        for top in range(n_levels - 1, 0, -1):
            _join(above, one, top, one, top + 1)
    _merge(above, _passes(level, row, start, peak, basin))
    return above


@compiled
def _slopes(height: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where each row's slopes are in the list of all, where each begins, and its highest pixel.

    Along a slope a row rises, then falls. Of equal pixels the later one is higher, so that a
    plateau has one direction.
    """
    rows, columns = height.shape
    row = np.empty(rows + 1, dtype=np.int32)
    start = np.empty(rows * (columns // 2 + 1) + 1, dtype=np.int32)
    peak = np.empty_like(start)
    n = 0
    for y in range(rows):
        row[y] = n
        line, fell = height[y], True
        for x in range(columns):
            falls = x == columns - 1 or line[x + 1] < line[x]
            if x == 0 or (fell and not falls):
                start[n] = x
                n += 1
            if falls and (x == 0 or not fell):
                peak[n - 1] = x
            fell = falls
    row[rows] = n
    start[n] = 0
    return row, start[: n + 1], peak[:n]


@compiled
def _stop(start: np.ndarray, slope: int, last: int, columns: int) -> int:
    """Where a slope of a row ends, exclusive; `last` is the row's last one."""
    return columns if slope == last else start[slope + 1]


@compiled
def _root(parent: np.ndarray, one: int) -> int:
    """The end of a chain of parents, which is shortened on the way."""
    while parent[one] != one:
        parent[one] = parent[parent[one]]
        one = parent[one]
    return one


@compiled
def _basins(
    level: np.ndarray, height: np.ndarray, row: np.ndarray, start: np.ndarray, peak: np.ndarray
) -> tuple[np.ndarray, int]:
    """Number of the basin of each slope, -1 for a cold one, and how many there are.

    From the highest pixel of a slope the way goes on in the rows above and below.
    """
    rows, columns = height.shape
    up = np.empty(len(peak), dtype=np.int32)
    for y in range(rows):
        for slope in range(row[y], row[y + 1]):
            top, top_y, top_x = height[y, peak[slope]], y, peak[slope]
            for there in range(max(y - 1, 0), min(y + 2, rows)):
                if there == y:
                    continue
                for x in range(max(peak[slope] - 1, 0), min(peak[slope] + 2, columns)):
                    value = height[there, x]
                    # Among equals the last.
                    if value > top or (value == top and there >= top_y):
                        top, top_y, top_x = value, there, x
            up[slope] = slope
            if top_y != y:
                up[slope] = row[top_y]
                while _stop(start, up[slope], row[top_y + 1] - 1, columns) <= top_x:
                    up[slope] += 1
    number, n = np.full(len(peak), -1, dtype=np.int32), 0
    for y in range(rows):
        for slope in range(row[y], row[y + 1]):
            if up[slope] == slope and level[y, peak[slope]] > 0:
                number[slope] = n
                n += 1
    basin = np.empty_like(number)
    for slope in range(len(peak)):
        basin[slope] = number[_root(up, slope)]
    return basin, n


@compiled
def _add_outlines(
    above: np.ndarray,
    level: np.ndarray,
    row: np.ndarray,
    start: np.ndarray,
    peak: np.ndarray,
    basin: np.ndarray,
) -> None:
    """Outline and area of each basin at each level, from the runs of pixels of one level.

    Where a slope rises a run is the first of its row above its level, where it falls the last.
    """
    rows, columns = level.shape
    for y in range(rows):
        for slope in range(row[y], row[y + 1]):
            own, top, x = basin[slope], peak[slope], start[slope]
            if own < 0:
                continue
            stop = _stop(start, slope, row[y + 1] - 1, columns)
            while x < stop:
                here, begin = level[y, x], x
                while x < stop and level[y, x] == here:
                    x += 1
                above[own, here, _AREA] += x - begin
                if begin <= top:
                    above[own, here, _XMIN] = min(above[own, here, _XMIN], begin)
                    above[own, here, _FIRST] = min(above[own, here, _FIRST], y * columns + begin)
                if x > top:
                    above[own, here, _XMAX] = max(above[own, here, _XMAX], x)
                    above[own, here, _YMAX] = y + 1


@compiled
def _add_enclosed(
    above: np.ndarray, level: np.ndarray, row: np.ndarray, start: np.ndarray, basin: np.ndarray
) -> None:
    """Counts by basin and level whose sum above a cut is twice the enclosed area.

    Of four pixels in a square, four hot ones enclose 1 and three 1/2. They touch, so they are of
    one region: that of the first or, should just this one be cold, of the second.
    """
    rows, columns = level.shape
    three, four = np.empty(columns, dtype=level.dtype), np.empty(columns, dtype=level.dtype)
    for y in range(rows - 1):
        line, below = level[y], level[y + 1]
        for x in range(columns - 1):
            first, second, third, fourth = line[x], line[x + 1], below[x], below[x + 1]
            low, low_next = min(first, second), min(third, fourth)
            four[x] = min(low, low_next)
            three[x] = min(max(low, low_next), min(max(first, second), max(third, fourth)))
        for slope in range(row[y], row[y + 1]):
            stop = _stop(start, slope, row[y + 1] - 1, columns)
            for x in range(start[slope], min(stop, columns - 1)):
                if three[x] == 0:
                    continue
                beside = x + 1 == stop and level[y, x] < three[x]
                owner = basin[slope + 1] if beside else basin[slope]
                above[owner, three[x], _TWICE] += 1
                above[owner, four[x], _TWICE] += 1


@compiled
def _join(above: np.ndarray, one: int, top: int, other: int, other_top: int) -> None:
    """Add the outline and the areas of another part of a region."""
    for end in (_XMIN, _FIRST):
        above[one, top, end] = min(above[one, top, end], above[other, other_top, end])
    for end in (_XMAX, _YMAX):
        above[one, top, end] = max(above[one, top, end], above[other, other_top, end])
    for size in (_AREA, _TWICE):
        above[one, top, size] += above[other, other_top, size]


@compiled
def _passes(
    level: np.ndarray, row: np.ndarray, start: np.ndarray, peak: np.ndarray, basin: np.ndarray
) -> np.ndarray:
    """Two basins and the level of a pass between them, one pass a row."""
    rows, columns = level.shape
    edges, n = np.empty((8 * len(peak), 3), dtype=np.int32), 0
    for y in range(rows):
        below = row[y + 1]
        for slope in range(row[y], row[y + 1]):
            begin, stop = start[slope], _stop(start, slope, row[y + 1] - 1, columns)
            if stop < columns and basin[slope] != basin[slope + 1]:
                top = min(level[y, stop - 1], level[y, stop])
                if top > 0:
                    edges[n, 0], edges[n, 1], edges[n, 2] = basin[slope], basin[slope + 1], top
                    n += 1
            if y + 1 == rows:
                continue
            final = row[y + 2] - 1
            # Slopes that end before this one, and its corner, touch none of the next ones either.
            while _stop(start, below, final, columns) < begin:
                below += 1
            for other in range(below, final + 1):
                if start[other] > stop:
                    break
                if basin[slope] == basin[other]:
                    continue
                end = _stop(start, other, final, columns)
                top = 0
                for x in range(max(begin, start[other] - 1), min(stop, end + 1)):
                    for beside in range(max(x - 1, start[other]), min(x + 2, end)):
                        top = max(top, min(level[y, x], level[y + 1, beside]))
                if top > 0:
                    edges[n, 0], edges[n, 1], edges[n, 2] = basin[slope], basin[other], top
                    n += 1
    return edges[:n]


@compiled
def _merge(above: np.ndarray, passes: np.ndarray) -> None:
    """Add basins to others up to the level of the pass between them, the highest pass first."""
    n_levels = above.shape[1]
    begin = np.zeros(n_levels + 1, dtype=np.int64)
    for edge in range(len(passes)):
        begin[n_levels - passes[edge, 2]] += 1
    for top in range(n_levels):
        begin[top + 1] += begin[top]
    order = np.empty(len(passes), dtype=np.int64)
    for edge in range(len(passes)):
        place = n_levels - 1 - passes[edge, 2]
        order[begin[place]] = edge
        begin[place] += 1
    parent = np.arange(len(above))
    for place in range(len(order)):
        edge = order[place]
        one, other = _root(parent, passes[edge, 0]), _root(parent, passes[edge, 1])
        if one == other:
            continue
        parent[other] = one
        for top in range(1, passes[edge, 2] + 1):
            _join(above, one, top, other, top)
            above[other, top, _AREA] = 0
