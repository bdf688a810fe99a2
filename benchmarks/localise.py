"""Time of matching all boxes of all thresholds, beside OpenCV's contours and scipy's labels.

    python benchmarks/localise.py [N_MAPS] [SIDE]

Random maps of SIDE x SIDE cells, 100 thresholds on a 224 x 224 grid, the boxes of all regions
matched with the true boxes. All figures come from one run on one core; read them as ratios.
"""

import os
import sys
import time

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
from limits import say
from scipy import ndimage

from featlab.boxes import iou_matrix
from featlab.localise.heat import normalise, upsample
from featlab.localise.regions import GRID, THRESHOLDS, score_heats

N = int(sys.argv[1]) if len(sys.argv) > 1 else 500
SIDE = int(sys.argv[2]) if len(sys.argv) > 2 else 14
FEW = 20
EIGHT = np.ones((3, 3))


def made_maps(kind, n, rng):
    """Independent cells, rectified ones (half are 0), or smooth ones."""
    cells = rng.random((n, SIDE, SIDE)).astype(np.float32)
    if kind == "rectified":
        return np.maximum(cells - 0.5, 0)
    return cells if kind == "noise" else ndimage.gaussian_filter(cells, (0, 1, 1))


def pictures(heats):
    for heat in heats:
        fine = normalise(upsample(heat, GRID))
        pixels = (fine * np.float32(255)).astype(np.uint8)
        for cut in np.floor(THRESHOLDS * pixels.max()):
            yield (pixels > cut).astype(np.uint8)


def by_scipy(heats, truth):
    for k, hot in enumerate(pictures(heats)):
        labels, _ = ndimage.label(hot, EIGHT)
        corners = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
        if corners:
            iou_matrix(corners, truth[k // 100, None]).max()


def by_contours(heats, truth):
    for k, hot in enumerate(pictures(heats)):
        contours = cv2.findContours(hot, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
        corners = [(x, y, x + w, y + h) for x, y, w, h in map(cv2.boundingRect, contours)]
        if corners:
            iou_matrix(corners, truth[k // 100, None]).max()


def ours(heats, truth):
    n = len(heats)
    return score_heats(
        heats,
        truth,
        np.arange(n),
        frames=np.tile([0.0, 0.0, 1.0, 1.0], (n, 1)),
        sizes=np.full((n, 2), float(GRID)),
    )


def milliseconds(work, heats, truth):
    """Per map, of the processor: other programs on the machine do not count."""
    start = time.process_time()
    work(heats, truth)
    return (time.process_time() - start) / len(heats) * 1000


others = {"scipy.ndimage.label + find_objects": by_scipy}
try:
    import cv2
except ModuleNotFoundError:
    print("opencv-python-headless is not installed: left out")
else:
    cv2.setNumThreads(1)
    others["OpenCV findContours, a loop"] = by_contours

rng = np.random.default_rng(0)
corners = np.sort(rng.random((N, 2, 2)), axis=1).reshape(N, 4) * GRID
print(f"{N} maps of {SIDE} x {SIDE}, 100 thresholds, all regions; milliseconds per map")
for kind in ("noise", "rectified", "smooth"):
    heats = made_maps(kind, N, rng)
    ours(heats[:FEW], corners[:FEW])  # compiled, and read from where it is kept
    base = milliseconds(ours, heats, corners)
    print(f"{kind}: featlab score_heats {base:.2f}, so 10,000 maps in {base * 10:.0f} s")
    for what, work in others.items():
        value = milliseconds(work, heats[:FEW], corners)
        print(f"    {what:36s} {value:8.2f}   {value / base:5.1f} x ours")
    if kind == "smooth":
        say("all regions of a smooth map at 100 thresholds, matched, ms", base, "<=", 0.5)
