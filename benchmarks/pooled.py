"""Everything after the pass on made-up pooled activations of very many images.

    python benchmarks/pooled.py [N_IMAGES] [N_NEURONS] [N_CLASSES] [IMAGES_PER_GROUP]

Writes a file laid out like a store's /pooled, block by block, and runs each stage on it: seconds,
processor seconds, and the most memory so far, once what the process itself holds and once with the
pages of scratch files, which the system drops when others need the room. Five neurons per class are
planted; the last lines say whether they, and nothing else, were found.
"""

import os
import resource
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")

import h5py
import numpy as np
import pandas as pd

from featlab import audit, embed, features, heads, neurons, splits
from featlab.audit._labels import outliers
from featlab.heads.models import predict_classes

N, C, CLASSES, PER_GROUP = [
    int(given) for given in sys.argv[1:] + ["1000000", "256", "10", "0"][len(sys.argv) - 1 :]
]
PLANTED, SHIFT, GROUP_SPREAD = 5, 1.3, 0.3
ROWS = 20_000


class PooledFile:
    """What the stages read of a store: images, and pooled activations in chunks of 256 rows."""

    layers = ("last",)

    def __init__(self, file: h5py.File, images: pd.DataFrame) -> None:
        self.file, self.images = file, images

    def map_shape(self, layer=None):
        """As MapStore's."""
        return 7, 7, self.file["pooled"].shape[1]

    def pooled(self, *, layer=None, pooling="mean"):
        """As MapStore's."""
        return self.file["pooled"][()]

    def iter_pooled(self, *, layer=None, pooling="mean", batch=4096):
        """As MapStore's."""
        for start in range(0, len(self.images), batch):
            rows = np.arange(start, min(start + batch, len(self.images)))
            yield rows, self.file["pooled"][start : start + batch]


def planted(code: int) -> np.ndarray:
    """The neurons of a class."""
    return (np.arange(PLANTED) * CLASSES + code) % C


def make_file(path: Path) -> PooledFile:
    rng = np.random.default_rng(0)
    codes = np.arange(N) // max(PER_GROUP, 1) % CLASSES
    group = np.arange(N) // PER_GROUP if PER_GROUP else np.zeros(N, dtype=int)
    shared = rng.normal(size=(4, C)).astype(np.float32) * 0.3
    with h5py.File(path, "w") as file:
        chunks = (min(256, N), C)
        pooled = file.create_dataset("pooled", (N, C), np.float32, chunks=chunks, compression=1)
        for start in range(0, N, ROWS):
            mine = codes[start : start + ROWS]
            values = rng.standard_normal((len(mine), C), dtype=np.float32)
            values += rng.standard_normal((len(mine), 4), dtype=np.float32) @ shared
            if PER_GROUP:
                own = np.random.default_rng([1, start])
                effects = own.normal(0, GROUP_SPREAD, (ROWS // PER_GROUP + 2, C))
                values += effects[group[start : start + ROWS] - group[start]].astype(np.float32)
            for code in range(CLASSES):
                values[np.ix_(mine == code, planted(code))] += SHIFT
            pooled[start : start + len(mine)] = np.maximum(values, 0)
    numbers = pd.Series(np.arange(N))
    images = pd.DataFrame(
        {
            "path": numbers.map("{:08d}.jpg".format),
            "label": np.array([f"class_{code}" for code in range(CLASSES)])[codes],
            "group": pd.Series(group).map("group_{}".format) if PER_GROUP else "",
            "split": "",
            "sha256": numbers.map("{:064x}".format),
        }
    )
    return PooledFile(h5py.File(path), images)


class Memory:
    """The most memory so far that is the process's own; asked for twenty times a second."""

    def __init__(self) -> None:
        self.most = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        status = Path("/proc/self/status")
        while status.exists():
            for line in status.read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.most = max(self.most, int(line.split()[1]) * 1024)
            time.sleep(0.05)


memory = Memory()
total = [time.perf_counter(), time.process_time()]


@contextmanager
def stage(name: str):
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    mapped = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    own = memory.most / 1e9
    print(
        f"| {name:50s} | {wall:7.1f} | {cpu:7.1f} | {own:5.2f} | {mapped / 1e9:5.2f} |", flush=True
    )


def main(folder: Path) -> None:
    grouped = f", groups of {PER_GROUP}" if PER_GROUP else ""
    print(f"{N:,} images x {C:,} neurons, {CLASSES} classes{grouped}: {N * C * 4 / 1e9:.1f} GB\n")
    print("| stage | seconds | processor | GB own, most so far | GB with mapped pages |")
    print("|---|---|---|---|---|")
    with stage("make the rows and write them (not featlab)"):
        store = make_file(folder / "pooled.h5")
    labels, groups = store.images["label"], store.images["group"]
    with stage("split"):
        split = splits.make_split(store.images)
    train, confirm = split == "train", split == "confirm"
    with stage("feature table: file → columns on disk"):
        X = features.feature_table(store)
    with stage("train and confirm rows of it"):
        training, judging = (features.take_rows(X, side) for side in (train, confirm))
    with stage(f"ranking, {int(train.sum()):,} rows, Benjamini-Hochberg"):
        table = neurons.rank_neurons(training, labels[train])
    with stage("ranking and max-T, 1,000 permutations"):
        by_max_t = neurons.rank_neurons(
            training, labels[train], correction="max_t", groups=groups[train]
        )
    with stage(f"confirmation, {int(confirm.sum()):,} rows"):
        confirmed = neurons.confirm_neurons(table, judging, labels[confirm], groups=groups[confirm])
    with stage("clusters of detectors (20,000 rows)"):
        neurons.cluster_detectors(neurons.select_neurons(confirmed), judging, labels[confirm])
    with stage("principal components, 50, of all rows"):
        components = features.principal_components(X, min(50, C))
    with stage("logistic head (50,000 rows), all test rows scored"):
        scores = heads.evaluate_heads(X, labels, split, heads=["logistic"], groups=groups)
    with stage("per class, calibration, head against dummy"):
        heads.per_class(scores, "logistic")
        heads.calibration(scores, "logistic")
        heads.compare_heads(scores)
    with stage("predicted class of every image"):
        predict_classes(scores, X)
    with stage("label errors, all rows"):
        audit.label_errors(X, labels, groups=groups)
    with stage("outliers, all rows"):
        outliers(X, labels)
    with stage("the set at a glance (10,000 rows, t-SNE)"):
        embed.overview(X, labels, scores.of("logistic"))
    wall, cpu = time.perf_counter() - total[0], time.process_time() - total[1]
    print(f"| {'all':50s} | {wall:7.1f} | {cpu:7.1f} | | |\n")
    truth = {(f"class_{code}", neuron) for code in range(CLASSES) for neuron in planted(code)}
    for name, ranked in (("Benjamini-Hochberg", table), ("max-T", by_max_t)):
        active = ranked[ranked["detector"] & (ranked["direction"] == "active")]
        pairs = set(zip(active["class"], active["neuron"], strict=True))
        hits = len(pairs & truth)
        print(f"{name}: {hits} of {len(truth)} planted found, {len(pairs - truth)} others")
    best = confirmed[confirmed["detector"] & (confirmed["direction"] == "active")]
    print(f"confirmed: {int(best['confirmed'].sum())} of {len(best)}")
    row = scores.table.set_index("head").loc["logistic"]
    print(
        f"logistic head: accuracy {row['accuracy']:.4f} ({row['accuracy_low']:.4f} to "
        f"{row['accuracy_high']:.4f}, n = {row['n']:,}); {row['parameters']}"
    )
    print(f"50 components hold {components.shares.sum():.1%} of the variance")


with tempfile.TemporaryDirectory() as made:
    main(Path(made))
