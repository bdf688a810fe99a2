"""Tables larger than memory: blocks and scratch files give what one matrix in memory gives."""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import joblib
import numpy as np
import pandas as pd
import pytest
from fake_store import FakeStore
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from featlab import (
    FeatlabError,
    arguments,
    audit,
    embed,
    extract,
    features,
    heads,
    images,
    neurons,
    pipeline,
    plots,
    splits,
)
from featlab.arguments import feature_columns
from featlab.audit import _labels, _pictures
from featlab.embed import _neighbours, planes
from featlab.features import POOLINGS
from featlab.heads import training
from featlab.heads.models import predict_classes
from featlab.localise import fitting
from featlab.neurons import _corrections, _detectors, _ranking
from featlab.system import machine

N, C, CLASSES = 360, 17, 3
GROUPINGS = ("none", "whole", "within")


def problem(grouping="none", n=N):
    """Planted detectors in in-memory features, labels, groups and a split."""
    rng = np.random.default_rng(3)
    codes = np.arange(n) % CLASSES
    values = np.maximum(rng.standard_normal((n, C)), 0)
    values[:, :CLASSES] += 0.9 * np.eye(CLASSES)[codes]
    values[:, 5] = 0.25  # dead
    X = pd.DataFrame(values.astype(np.float32), columns=feature_columns("top", "mean", C))
    labels = pd.Series(np.array(["ant", "bee", "cat"])[codes])
    names = {
        "none": np.full(n, ""),
        "whole": np.char.add(labels.to_numpy(str), (np.arange(n) // CLASSES // 5).astype(str)),
        "within": np.char.add("day ", (np.arange(n) // (4 * CLASSES)).astype(str)),
    }
    groups = pd.Series(names[grouping])
    paths = [f"{i:04}.jpg" for i in range(n)]
    table = pd.DataFrame({"path": paths, "label": labels, "group": groups})
    return SimpleNamespace(X=X, y=labels, groups=groups, split=splits.make_split(table))


@pytest.fixture
def tiny(monkeypatch):
    """Everything larger than 2 kB lies in a scratch file and is read a few rows at a time."""

    def use() -> None:
        monkeypatch.setattr(machine, "IN_MEMORY", 2000)
        monkeypatch.setattr(machine, "BLOCK", 500)
        monkeypatch.setattr(_corrections, "_ELEMENTS_AT_ONCE", 1500)

    return use


def on_disk(X):
    """The same table in a scratch file."""
    values = machine.scratch_columns(*X.shape)
    values[:] = X
    return pd.DataFrame(values, index=X.index, columns=X.columns, copy=False)


def is_mapped(X):
    """Whether the table's memory is that of a file."""
    base = X.to_numpy()
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(getattr(base, "obj", base), mmap.mmap)


class TestScratch:
    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_a_table_on_disk_is_the_table_in_memory(
        self, pooling, monkeypatch, tmp_path, picture_folder, fake_backbone
    ):
        table, _, _ = images.index_images(picture_folder({"a": 7, "b": 6}))
        store = extract.extract_maps(table, fake_backbone, tmp_path / "maps.h5")
        plain = features.feature_table(store, pooling=pooling)
        monkeypatch.setattr(machine, "IN_MEMORY", 10)
        monkeypatch.setattr(machine, "BLOCK", 40)  # four rows of ten neurons
        mapped = features.feature_table(store, pooling=pooling)
        assert is_mapped(mapped)
        assert not is_mapped(plain)
        assert_frame_equal(mapped, plain)

    def test_rows_are_taken_without_loading_the_others(self, tiny):
        X = problem().X
        tiny()
        mask = np.arange(N) % 5 != 2
        for rows in (mask, np.flatnonzero(mask)[::-1]):
            taken = features.take_rows(on_disk(X), rows)
            assert is_mapped(taken)
            assert_frame_equal(taken, X.iloc[np.arange(N)[rows]])
        few = features.take_rows(on_disk(X), [3, 1])
        assert not is_mapped(few)
        assert_frame_equal(few, X.iloc[[3, 1]])

    def test_the_file_has_no_name_and_goes_with_the_table(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        values = machine.scratch_columns(50, 7)
        values[:] = 3
        assert os.listdir(tmp_path) == []
        assert values.sum() == 1050

    def test_no_room_is_said_before_anything_is_written(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        full = SimpleNamespace(free=10)
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: full)
        with pytest.raises(FeatlabError, match=r"4\.0 GB cannot be made .* set TMPDIR"):
            machine.scratch_columns(1_000_000, 1000)

    def test_bad_values_are_counted_in_blocks(self, tiny):
        X = problem().X
        tiny()
        X.iloc[7, 3], X.iloc[350, 16] = np.nan, np.inf
        for values in (X.to_numpy(), on_disk(X).to_numpy(), np.asfortranarray(X)):
            assert machine.count_bad(values) == 2
        with pytest.raises(FeatlabError, match="2 NaN"):
            neurons.rank_neurons(on_disk(X), problem().y)

    def test_another_process_gets_the_values(self):
        values = on_disk(problem().X).to_numpy()
        with joblib.parallel_config("loky", n_jobs=2):
            sent = joblib.Parallel()([joblib.delayed(np.array)(values)] * 2)
        assert_array_equal(sent, [values, values])


class TestSampling:
    def test_all_rows_where_they_are_few(self):
        assert_array_equal(arguments.stratified_rows(["a", "b", "a"], 3), [0, 1, 2])

    def test_shares_of_the_classes_and_a_floor_for_rare_ones(self):
        labels = np.random.default_rng(0).permutation(["a"] * 9000 + ["b"] * 940 + ["c"] * 60)
        rows = arguments.stratified_rows(labels, 1000, random_state=4)
        counts = pd.Series(labels[rows]).value_counts()
        assert counts.to_dict() == {"a": 900, "b": 94, "c": 50}
        assert (np.diff(rows) > 0).all()
        assert_array_equal(rows, arguments.stratified_rows(labels, 1000, random_state=4))
        assert not np.array_equal(rows, arguments.stratified_rows(labels, 1000, random_state=5))

    def test_every_row_is_as_likely(self):
        drawn = [arguments.stratified_rows(np.zeros(200), 100, seed) for seed in range(400)]
        share = np.bincount(np.concatenate(drawn), minlength=200) / 400
        assert_allclose(share, 0.5, atol=5 * np.sqrt(0.25 / 400))


class TestComponents:
    @pytest.mark.parametrize("offset", [0, 1000])
    def test_as_scikit_learn(self, offset, tiny):
        values = np.random.default_rng(0).normal(size=(300, 8)) @ np.diag(np.arange(1, 9)) + offset
        model = PCA(5, svd_solver="full").fit(values)
        tiny()
        found = features.principal_components(values, 5)
        assert_allclose(found.axes, model.components_, atol=1e-9)
        assert_allclose(found.shares, model.explained_variance_ratio_, atol=1e-12)
        assert_allclose(
            features.component_scores(found, values), model.transform(values), atol=1e-9
        )
        assert_allclose(
            features.component_scores(found, values, [9, 2]),
            model.transform(values)[[9, 2]],
            atol=1e-9,
        )

    @pytest.mark.parametrize("n", [5, 60])
    def test_of_a_function_of_the_rows(self, n, tiny):
        values = np.random.default_rng(0).gamma(1.0, size=(n, 8)).astype(np.float32)
        expected = features.principal_components(np.log1p(values), 4, dtype=np.float32)
        tiny()
        found, scores = features.reduced_rows(values, 4, np.log1p)
        assert_allclose(found.axes, expected.axes, atol=1e-4)
        assert_allclose(found.shares, expected.shares, atol=1e-5)
        seen = np.log1p(values)
        assert_allclose(scores, (seen - seen.mean(axis=0)) @ found.axes.T, atol=1e-4)

    def test_of_very_many_rows_those_of_some_evenly_spaced(self, monkeypatch):
        values = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        monkeypatch.setattr("featlab.features._MOST_TURNED", 15)
        found, scores = features.reduced_rows(values, 4)
        few, of_few = features.reduced_rows(values[::4], 4)
        assert_allclose(found.axes, few.axes)
        assert_allclose(scores[::4], of_few, atol=1e-5)
        assert len(scores) == 60

    def test_standardised_with_a_column_that_does_not_vary(self, tiny):
        X = problem().X
        varying = X.drop(columns=5, level="neuron").to_numpy(np.float64)
        scaled = StandardScaler().fit_transform(varying)
        model = PCA(4, svd_solver="full").fit(scaled)
        tiny()
        found = features.principal_components(on_disk(X), 4, standardised=True)
        assert_allclose(features.component_scores(found, X), model.transform(scaled), atol=1e-9)
        assert_allclose(found.axes[:, 5], 0, atol=1e-12)


class TestNeurons:
    @pytest.mark.parametrize(
        ("correction", "grouping"),
        [
            ("fdr_bh", "whole"),
            ("max_t", "within"),
            *(
                pytest.param(*pair, marks=pytest.mark.slow)
                for pair in itertools.product(("fdr_bh", "max_t"), GROUPINGS)
                if pair not in (("fdr_bh", "whole"), ("max_t", "within"))
            ),
        ],
    )
    def test_ranked_and_confirmed_alike(self, grouping, correction, tiny, monkeypatch):
        monkeypatch.setattr("featlab.neurons._corrections.PERMUTATIONS", 99)
        made = problem(grouping)
        train, confirm = made.split == "train", made.split == "confirm"

        def found(X):
            ranked = neurons.rank_neurons(
                features.take_rows(X, train),
                made.y[train],
                correction=correction,
                groups=made.groups[train],
                min_auroc=0.55,
            )
            return neurons.confirm_neurons(
                ranked,
                features.take_rows(X, confirm),
                made.y[confirm],
                groups=made.groups[confirm],
            )

        plain = found(made.X)
        tiny()
        blocks = found(on_disk(made.X))
        assert plain["detector"].sum() >= 3
        assert_frame_equal(blocks, plain)
        assert blocks.attrs == plain.attrs

    @pytest.mark.parametrize("grouping", ["none", "within"])
    def test_permutations_are_those_of_one_large_array(self, grouping):
        made = problem(grouping)
        codes = pd.factorize(made.y)[0]
        names, rng = made.groups.to_numpy(str), np.random.default_rng(5)
        if grouping == "none":
            expected = rng.permuted(np.tile(codes, (20, 1)), axis=1)
        else:
            expected = np.tile(codes, (20, 1))
            for name in np.unique(names):
                rows = np.flatnonzero(names == name)
                expected[:, rows] = rng.permuted(expected[:, rows], axis=1)
        permuted = _corrections.permuted_codes(codes, names, 20, 5)
        assert permuted.dtype == np.uint8
        assert_array_equal(permuted, expected)

    def test_the_other_tables_alike(self, tiny):
        made = problem()
        pairs = {"reference": ["ant", "bee", "cat"]}

        def found(X):
            detectors = neurons.select_neurons(neurons.rank_neurons(X, made.y, min_auroc=0.6))
            return [
                neurons.rank_neurons(X, made.y, **pairs),
                neurons.compare_classes(X, made.y),
                neurons.softmax_top_k(X, made.y),
                neurons.cluster_detectors(detectors, X, made.y),
                neurons.null_selection(X, made.y, made.split, n_repeats=2),
            ]

        plain = found(made.X)
        tiny()
        for one, other in zip(found(on_disk(made.X)), plain, strict=True):
            assert_frame_equal(one, other)

    def test_clusters_from_a_sample_of_images(self, monkeypatch):
        made = problem(n=3000)
        twin = pd.DataFrame(made.X.to_numpy()).assign(copy=lambda X: X[0] * 2 + 1)
        twin.columns = feature_columns("top", "mean", C + 1)
        table = neurons.select_neurons(neurons.rank_neurons(twin, made.y), most=4)
        monkeypatch.setattr(_detectors, "_MOST_IMAGES", 300)
        found = neurons.cluster_detectors(table, twin, made.y)
        ants = found[found["class"] == "ant"].set_index("neuron")
        assert ants.loc[0, "cluster"] == ants.loc[17, "cluster"]
        assert ants.loc[0, "relative_correlation"] == pytest.approx(1)


class TestHeads:
    @pytest.mark.parametrize("grouping", [pytest.param("none", marks=pytest.mark.slow), "whole"])
    def test_scores_in_blocks(self, grouping, tiny):
        made = problem(grouping)

        def found(X):
            some = {"groups": made.groups, "n_boot": 50}
            scores = heads.evaluate_heads(X, made.y, made.split, heads=["logistic", "knn"], **some)
            curve = heads.learning_curve(X, made.y, made.split, sizes=[5, 20], n_repeats=2, **some)
            ablated = heads.ablation_curve(X, made.y, made.split, [0, 1, 2], n_random=3, **some)
            small = heads.smallest_set(X, made.y, made.split, [0, 1, 2, 3], **some)
            return [
                scores.table,
                scores.predictions,
                heads.calibration(scores, "logistic", n_boot=50).table,
                heads.compare_heads(scores, n_boot=50),
                heads.per_class(scores, "logistic"),
                curve,
                ablated,
                small.curve,
                pd.DataFrame({"called": predict_classes(scores, X)}),
            ]

        plain = found(made.X)
        tiny()
        for one, other in zip(found(on_disk(made.X)), plain, strict=True):
            assert_frame_equal(one, other, rtol=1e-9, atol=1e-12)
            assert one.attrs == pytest.approx(other.attrs)

    @pytest.mark.slow
    def test_fitted_on_a_stratified_part_and_scored_on_all(self, monkeypatch):
        made = problem(n=3000)
        monkeypatch.setattr(training, "MOST_ROWS", 300)
        n_train, n_test = (int((made.split == side).sum()) for side in ("train", "test"))
        part = heads.evaluate_heads(made.X, made.y, made.split, heads=["logistic"])
        row = part.table.set_index("head").loc["logistic"]
        assert (row["n_train"], row["n"]) == (300, n_test)
        assert f"on a random 300 of {n_train:,} train images" in row["parameters"]
        curve = heads.learning_curve(made.X, made.y, made.split, n_repeats=2)
        assert curve["n_train"].iloc[-1] == 300
        monkeypatch.undo()
        whole = heads.evaluate_heads(made.X, made.y, made.split, heads=["logistic"])
        row = whole.table.set_index("head").loc["logistic"]
        assert row["n_train"] == n_train
        assert "random" not in row["parameters"]
        # A tenth of the images already tells most of what is to be learnt here.
        assert part.table["accuracy"].iloc[1] > whole.table["accuracy"].iloc[1] - 0.03

    def test_the_part_is_of_train_and_in_the_classes_shares(self, monkeypatch):
        codes = np.repeat([0, 1], [3000, 1000])
        train = np.flatnonzero(np.arange(4000) % 2)
        monkeypatch.setattr(training, "MOST_ROWS", 400)
        rows = training.fitted_rows(codes, train, 0)
        assert np.isin(rows, train).all()
        assert_array_equal(np.bincount(codes[rows]), [300, 100])


class TestGlance:
    @pytest.fixture
    def some(self, monkeypatch):
        monkeypatch.setattr(planes, "MOST_IMAGES", 90)
        monkeypatch.setattr(_neighbours, "MOST_IMAGES", 90)

    def test_neighbours_in_blocks(self, tiny):
        made = problem()
        copies = pd.concat([made.X, made.X.iloc[:40]], ignore_index=True)
        plain = embed.nearest_neighbours(copies, range(len(copies)), 7)
        tiny()
        assert_frame_equal(embed.nearest_neighbours(copies, range(len(copies)), 7), plain)

    def test_of_a_sample_with_the_row_numbers_of_the_set(self, some, tiny):
        made = problem()
        tiny()
        X = on_disk(made.X)
        scores = heads.evaluate_heads(X, made.y, made.split, heads=["logistic"], n_boot=20)
        found = embed.overview(X, made.y, scores.of("logistic"))
        rows = found.embedding.coordinates.index.to_numpy()
        labels = made.y.to_numpy()
        assert 90 <= len(rows) <= 150
        assert set(found.neighbours["row"]) == set(rows)
        assert np.isin(found.neighbours["neighbour"], rows).all()
        assert_array_equal(found.neighbours["label"], labels[found.neighbours["row"]])
        assert_array_equal(
            found.neighbours["neighbour_label"], labels[found.neighbours["neighbour"]]
        )
        wrong, called = found.misclassified, scores.of("logistic").set_index("row")
        assert_array_equal(wrong["predicted"], called.loc[wrong["row"], "predicted"])
        assert_array_equal(wrong["label"], labels[wrong["row"]])
        assert np.isin(wrong["row"], rows).all()
        assert np.isin(found.embedding.thumbnails["row"], rows).all()
        assert found.embedding.parameters["n"] == N
        # The plane is of the sample, its components are of all images.
        model = PCA(2, svd_solver="full").fit(made.X.to_numpy(np.float64))
        expected = model.transform(made.X.to_numpy(np.float64)[rows])
        assert_allclose(found.embedding.coordinates[["pc1", "pc2"]], expected, atol=1e-8)

    def test_figures_take_the_labels_of_all_images(self, some):
        made = problem()
        plane = planes.embed_images(made.X)
        assert len(plane) == 90
        rows = plane.coordinates.index.to_numpy()
        axes = plots.embedding_scatter(plane, made.y, misclassified=rows[:3])
        ringed = axes.collections[-1].get_offsets()
        assert_allclose(ringed, plane.coordinates[["tsne_1", "tsne_2"]].iloc[:3])
        assert "n = 90 images" in axes.get_title(loc="left") + axes.get_title()
        shown = axes.get_legend().get_texts()
        counts = pd.Series(made.y.to_numpy()[rows]).value_counts()
        assert shown[0].get_text() == f"ant (n = {counts['ant']})"
        with pytest.raises(FeatlabError, match="labels has 90 entries"):
            plots.embedding_scatter(plane, made.y.iloc[:90])


class TestAudit:
    def test_label_errors_and_outliers_from_blocks(self, tiny, monkeypatch):
        made = problem()
        made.X.iloc[11] = 9.0
        wrong = made.y.copy()
        wrong.iloc[[30, 60]] = "bee"
        plain = audit.label_errors(made.X, wrong), _labels.outliers(made.X, wrong)
        tiny()
        X = on_disk(made.X)
        errors, far = audit.label_errors(X, wrong), _labels.outliers(X, wrong)
        one, other = (table.set_index("row").sort_index() for table in (errors, plain[0]))
        assert_frame_equal(one, other, atol=0.01)  # the solver stops early
        assert_allclose(far.set_index("row")["distance"].sort_index(),
                        plain[1].set_index("row")["distance"].sort_index(), rtol=1e-6)  # fmt: skip
        monkeypatch.setattr(_labels, "_MOST_OF_A_CLASS", 60)
        sampled = _labels.outliers(X, wrong)
        assert sampled["row"].iloc[0] == far["row"].iloc[0] == 11
        assert len(sampled) == N


MEMORY = """
import resource
import sys
import numpy as np, pandas as pd
from featlab import features, heads, neurons
from featlab.arguments import feature_columns
from featlab.system import machine
machine.IN_MEMORY, machine.BLOCK = 2**20, 500_000
for room in ("_corrections", "_tests"):
    sys.modules[f"featlab.neurons.{room}"]._ELEMENTS_AT_ONCE = 100_000
neurons._corrections.PERMUTATIONS = 20
n, c = 40_000, 256
rng = np.random.default_rng(0)
values = machine.scratch_columns(n, c)
for part in machine.pieces(n, c):
    values[part] = rng.standard_normal((part.stop - part.start, c), dtype=np.float32)
y = pd.Series(np.arange(n) % 2).map({0: "a", 1: "b"})
values[:, 7] += y == "a"
X = pd.DataFrame(values, columns=feature_columns("l", "mean", c), copy=False)
small = X.iloc[:500, :20]
split = ["train", "train", "test", "test"] * 125
heads.evaluate_heads(small, y[:500], split, heads=["logistic"], n_boot=2)
status = open("/proc/self/status").read()
data = int(status.split("VmData:")[1].split()[0]) * 1024
limit = data + 36 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.array(X)
    print("no limit")
except MemoryError:
    pass
train = features.take_rows(X, np.arange(n) % 2 == 0)
labels = pd.Series(np.where(np.arange(len(train)) % 2, "a", "b"), index=train.index)
table = neurons.rank_neurons(X, y, correction="max_t")
active = table[table["detector"] & (table["direction"] == "active")]
features.principal_components(X, 3)
print(active[["class", "neuron"]].to_numpy().tolist())
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_memory_stays_bounded():
    """A table of 41 MB, with 38 MB to work in: not one copy of it fits."""
    one = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | one,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[['a', 7]]"


@pytest.mark.slow
def test_a_whole_analysis_from_scratch_files(tmp_path, picture_folder, fake_backbone, tiny):
    table, _, _ = images.index_images(picture_folder({"a": 24, "b": 24}))
    store = extract.extract_maps(table, fake_backbone, tmp_path / "maps.h5")
    plain = pipeline.analyse(store)
    tiny()
    machine.IN_MEMORY = 100  # bytes; the fixture puts it back
    found = pipeline.analyse(store)
    for one, other in (
        (found.heads.table, plain.heads.table),
        (found.all_neurons, plain.all_neurons),
        (found.head_details.learning, plain.head_details.learning),
        (found.detector_details.nulls, plain.detector_details.nulls),
        (found.softmax_top_k, plain.softmax_top_k),
        (found.audit.summary, plain.audit.summary),
        (found.set_overview.overview.neighbours, plain.set_overview.overview.neighbours),
    ):
        assert_frame_equal(one, other, rtol=1e-6)


def test_of_very_many_images_those_with_boxes_teach_beside_a_sample(monkeypatch):
    images = pd.DataFrame({"label": np.array(["ant", "bee"])[np.arange(400) % 2]})
    store, train = FakeStore(images), np.arange(300)
    boxes = pd.DataFrame({"image": [8, 9, 250, 350]})
    assert_array_equal(fitting._rows_of_cells(store, train, boxes, 0), train)
    monkeypatch.setattr(fitting, "_MOST_LEARNT", 100)
    some = fitting._rows_of_cells(store, train, boxes, 0)
    assert {8, 9, 250} <= set(some.tolist()) <= set(train.tolist())
    assert 100 <= len(some) <= 103
    assert_array_equal(np.bincount(some % 2) >= 50, True)


def test_frames_are_read_once(monkeypatch, tmp_path, picture_folder, fake_backbone):
    table, _, _ = images.index_images(picture_folder({"a": 7, "b": 6}))
    with extract.extract_maps(table, fake_backbone, tmp_path / "maps.h5") as store:
        first = store.frames
        monkeypatch.setattr(store._arrays, "read", None)
        assert store.frames is first
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 0


def test_pictures_are_not_all_asked_for_at_once(monkeypatch):
    """The waiting tasks of a million pictures would take a gigabyte."""
    asked = []

    def measure(path, levels):
        asked.append(path)
        return np.zeros(len(_pictures.PICTURE_COLUMNS))

    def progress(rows):
        for row in rows:
            assert len(asked) <= row + _pictures._AHEAD + 1
            yield row

    monkeypatch.setattr(_pictures, "_measure", measure)
    table = pd.DataFrame({"path": [f"{k}.jpg" for k in range(400)]})
    _pictures.read_pictures(table, "nowhere", progress=progress)
    assert len(asked) == 400


def test_objects_of_pictures_in_any_order_are_those_of_each():
    rng = np.random.default_rng(0)
    n, m = 40, 130
    corners = np.sort(rng.uniform(0, 100, (m, 2, 2)), axis=1).reshape(m, 4)
    boxes = pd.DataFrame(corners, columns=["xmin", "ymin", "xmax", "ymax"])
    boxes = boxes.assign(image=rng.integers(0, n, m))
    table = pd.DataFrame({"width": np.full(n, 100), "height": 100})
    seen = pd.DataFrame({"brightness": np.where(np.arange(n) == 3, np.nan, 1.0)})
    whole = _pictures.with_objects(seen, table, boxes)
    for row in range(n):
        own = boxes[boxes["image"] == row]
        if own.empty:
            assert whole.iloc[row, 1:].isna().all()
            continue
        alone = _pictures.with_objects(seen, table, own)
        assert_frame_equal(whole.iloc[[row]], alone.iloc[[row]])
    assert whole["n_objects"].sum() == (boxes["image"] != 3).sum()


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_what_is_dealt_out_to_workers_is_the_table_of_one_process(grouping, monkeypatch):
    def elsewhere(calls):
        return [pickle.loads(pickle.dumps(call))() for call in calls]

    def ranked(**how):
        p = problem(grouping, n=720)
        tables = [p.X, p.X.rename(columns={"mean": "max"}, level="pooling") * np.float32(2)]
        return neurons.rank_neurons(tables, p.y, groups=p.groups, **how)

    monkeypatch.setattr(_corrections, "_ELEMENTS_AT_ONCE", 5000)
    ways = [{}, {"correction": "max_t"}] + [{"reference": "ant"}] * (grouping == "none")
    alone = [ranked(**how) for how in ways]
    monkeypatch.setattr(_corrections, "_LESS_AT_ONCE", machine.BLOCK // (5 * 720))
    for module in (_corrections, _ranking):
        monkeypatch.setattr(module, "has_cluster", lambda: True)
    monkeypatch.setattr(_corrections, "done_on_cluster", elsewhere)
    for how, expected in zip(ways, alone, strict=True):
        assert_frame_equal(ranked(**how), expected, check_exact=True)
