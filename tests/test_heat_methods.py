"""The heat-map methods of the registry on maps whose object is known, and the units judged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_store import FakeStore
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from featlab import FeatlabError, localise
from featlab.boxes import geometry as bx
from featlab.localise import METHODS, detectors, unit_localisation
from featlab.localise.fitting import cells_in_boxes
from featlab.results.localisation import Cells, ClassWeights, Context
from featlab.system.machine import scratch

CLASSES, SIDE, NEURONS = ["cat", "dog"], 7, 8
N = 60
SPLIT = np.array(["train", "train", "confirm", "test"])[np.arange(N) // 2 % 4]
# Neurons 0 and 1 fire on the object of cat and of dog, 2 on both, 3 beside a cat (a shortcut),
# 4 is silent where there is a cat, the others are noise.


def planted_store() -> FakeStore:
    rng = np.random.default_rng(0)
    codes = np.arange(N) % 2
    maps = rng.gamma(1.0, 0.05, size=(N, SIDE, SIDE, NEURONS)).astype(np.float32)
    rows = []
    for i, code in enumerate(codes):
        y, x = rng.integers(0, SIDE - 3, 2)
        maps[i, y : y + 3, x : x + 3, code] += 2
        maps[i, y : y + 3, x : x + 3, 2] += 2
        rows.append([i, "object", CLASSES[code], *(np.array([x, y, x + 3, y + 3]) * 10.0)])
        if code == 0:
            away = (y + 3) % SIDE if y + 3 < SIDE else y - 1
            maps[i, away, :, 3] += 2
        else:
            maps[i, :, :, 4] += 1
    boxes = pd.DataFrame(rows, columns=["image", "kind", "label", *bx.CORNERS])
    labels, size = [CLASSES[c] for c in codes], SIDE * 10
    images = pd.DataFrame({"label": labels, "width": size, "height": size, "group": ""})
    return FakeStore(images, boxes, maps)


TABLE = pd.DataFrame(
    [
        ("cat", 0, 0.99, "active"),
        ("cat", 3, 0.9, "active"),
        ("cat", 4, 0.05, "silent"),
        ("dog", 1, 0.99, "active"),
        ("dog", 4, 0.95, "active"),
    ],
    columns=["class", "neuron", "auroc", "direction"],
).assign(layer="top", pooling="mean", rank=1, detector=True, confirmed=True)
WEIGHTS = ClassWeights(
    ["dog", "cat"], np.eye(NEURONS)[[1, 0]] - [[0], [1]] * np.eye(NEURONS)[1], np.zeros(2)
)


@pytest.fixture(scope="module")
def store():
    return planted_store()


@pytest.fixture(scope="module")
def mlp(store):
    train = SPLIT == "train"
    X, y = store.pooled()[train], store.images["label"][train]
    model = MLPClassifier((16,), max_iter=400, random_state=0)
    return Pipeline([("scale", StandardScaler()), ("model", model)]).fit(X, y)


@pytest.fixture(scope="module")
def fitted(store, mlp):
    return localise.fitting.fit_methods(
        store, SPLIT == "train", boxes=store.boxes, neurons=TABLE, weights=WEIGHTS, mlp=mlp
    )  # fmt: skip


@pytest.fixture(scope="module")
def heats(store, fitted):
    rows = np.flatnonzero(SPLIT == "test")
    return rows, localise.heat_maps(store, rows, fitted)


def test_every_method_gives_one_finite_map_an_image(heats):
    rows, found = heats
    assert set(found) == {*METHODS, "random_neuron"}
    for name, heat in found.items():
        draws = (10,) if name == "random_neuron" else ()
        assert heat.shape == (len(rows), *draws, SIDE, SIDE), name
        assert heat.dtype == np.float32
        assert np.isfinite(heat).all(), name


@pytest.mark.parametrize(
    "name",
    [
        "best_detector",
        "cam",
        "cam_positive",
        "cell_head",
        "fusion",
        "parts",
        "cell_boxes",
        "student",
    ],
)
def test_methods_that_know_the_class_are_hot_on_the_object(name, heats, store):
    rows, found = heats
    inside = cells_in_boxes(store, rows, (SIDE, SIDE), store.boxes)
    heat = found[name].reshape(len(rows), -1)
    hot = np.mean([inside[i, heat[i].argmax()] for i in range(len(rows))])
    assert hot > 0.9, hot


@pytest.mark.parametrize("name", ["sum", "eigen_cam", "ddt", "detectors", "normalised_cut"])
def test_methods_without_it_still_prefer_the_object(name, heats, store):
    rows, found = heats
    inside = cells_in_boxes(store, rows, (SIDE, SIDE), store.boxes)
    heat = found[name].reshape(len(rows), -1)
    on = np.mean([heat[i][inside[i]].mean() > heat[i][~inside[i]].mean() for i in range(len(rows))])
    assert on > 0.8, on


def wholes_and_parts() -> tuple[FakeStore, np.ndarray]:
    """Objects of 4 x 6 cells of which a corner of 2 x 2 alone tells the class."""
    rng = np.random.default_rng(1)
    codes = np.arange(N) % 2
    maps = rng.gamma(1.0, 0.05, size=(N, 14, 14, NEURONS)).astype(np.float32)
    rows, wholes = [], np.zeros((N, 14, 14), dtype=bool)
    for i, code in enumerate(codes):
        y, x = rng.integers(0, (11, 9))
        wholes[i, y : y + 4, x : x + 6] = True
        maps[i][wholes[i]] += rng.gamma(4.0, 0.25, (24, 1)) * [0, 0, 1, 0, 0, 1, 0, 0]
        maps[i, y : y + 2, x : x + 2, code] += 3
        rows.append([i, "object", CLASSES[code], *(np.array([x, y, x + 6, y + 4]) * 10.0)])
    boxes = pd.DataFrame(rows, columns=["image", "kind", "label", *bx.CORNERS])
    labels = [CLASSES[c] for c in codes]
    images = pd.DataFrame({"label": labels, "width": 140, "height": 140, "group": ""})
    return FakeStore(images, boxes, maps), wholes


def test_a_student_draws_the_whole_of_which_its_teacher_knows_a_part():
    store, wholes = wholes_and_parts()
    fit, rows = localise.fitting.fit_methods, np.flatnonzero(SPLIT == "test")
    known = {"neurons": TABLE[TABLE["neuron"] < 2], "weights": WEIGHTS}
    fitted = fit(store, SPLIT == "train", ["fusion", "student"], boxes=store.boxes, **known)
    heats = localise.heat_maps(store, rows, fitted)

    def best(heat: np.ndarray) -> np.ndarray:
        """Share of the whole that is drawn, at the cut that is best for each picture."""
        cuts = np.linspace(0, 0.98, 50)[:, None, None, None]
        hot = heat > cuts * heat.max(axis=(1, 2), keepdims=True)
        both, either = (hot & wholes[rows]).sum((2, 3)), (hot | wholes[rows]).sum((2, 3))
        return (both / either).mean(axis=1).max()

    assert best(heats["student"]) > 0.9
    assert best(heats["student"]) > best(heats["fusion"]) + 0.1
    # Above half of its range lies only what the whole holds, hottest where the class is told.
    assert (heats["student"] > 0.6)[wholes[rows]].any()
    assert not (heats["student"] > 0.6)[~wholes[rows]].any()


def test_a_student_needs_no_box_and_reads_none():
    store, _ = wholes_and_parts()
    fit = localise.fitting.fit_methods
    known = {"neurons": TABLE, "weights": WEIGHTS}
    fitted = [
        fit(store, SPLIT == "train", "student", boxes=boxes, **known).contexts["top"]
        for boxes in (store.boxes, store.boxes.iloc[:0], store.boxes.assign(xmin=0.0, ymax=9.0))
    ]
    for other in fitted[1:]:
        for one, same in zip(fitted[0].fitted["student"], other.fitted["student"], strict=True):
            assert np.array_equal(one, same)
    # Without detectors and head it learns from what is left.
    alone = fit(store, SPLIT == "train", "student", boxes=store.boxes)
    heat = localise.heat_maps(store, [0, 1], alone)["student"]
    assert heat.shape == (2, 14, 14)
    assert 0 <= heat.min() < heat.max() <= 1


def test_a_student_learns_from_very_many_pictures(monkeypatch):
    # Of each of which two cells are drawn, one above and one below the other.
    store, wholes = wholes_and_parts()
    monkeypatch.setattr(localise.fitting, "_MOST_CELLS", 2 * (SPLIT == "train").sum())
    known = {"neurons": TABLE[TABLE["neuron"] < 2], "weights": WEIGHTS, "boxes": store.boxes}
    fitted = localise.fitting.fit_methods(store, SPLIT == "train", "student", **known)
    rows = np.flatnonzero(SPLIT == "test")
    heat, inside = localise.heat_maps(store, rows, fitted)["student"], wholes[rows]
    assert heat[inside].mean() > heat[~inside].mean() + 0.1


def test_ranks_are_those_of_every_picture_alone():
    heat = np.random.default_rng(0).integers(0, 9, (5, 4, 3)).astype(np.float32)
    heat[1, 0], heat[2] = np.nan, 1.0
    ranks = localise.fitting.ranks_in_picture(heat)
    for one, of_one in zip(heat, ranks, strict=True):
        below = [[(one < cell).sum() + (one == cell).sum() / 2 for cell in row] for row in one]
        expected = np.array(below) / np.isfinite(one).sum()
        assert np.allclose(of_one, np.where(np.isfinite(one), expected, np.nan), equal_nan=True)


def test_padding_around_pictures_teaches_a_student_nothing():
    store, _ = wholes_and_parts()
    wide = np.tile([0.0, 3 / 14, 1.0, 11 / 14], (N, 1))
    padded, rows = store.array.copy(), SPLIT == "train"
    padded[:, :3], padded[:, 11:] = 0, 0
    drawn = localise.fitting.train_cells(
        replace(store, array=padded, frames=wide),
        np.flatnonzero(rows),
        np.zeros(N, dtype=int),
        store.boxes,
        Context([], np.zeros(0, int), np.ones(1)),
        layer="top",
    )
    heat = np.ones((rows.sum(), 14, 14), dtype=np.float32)
    drawn = localise.fitting.ranked_cells(drawn, heat, wide[rows])
    fires = vars(drawn)["values"].any(axis=1)
    assert np.isnan(drawn.rank[~fires]).all()
    assert np.isfinite(drawn.rank[fires]).all()


@pytest.mark.parametrize(("n", "k"), [(64, 4), (400, 12)])
def test_a_component_for_every_sixteen_cells_that_are_learnt_from(n, k):
    """As scikit-learn in the room of all neurons; other cells only turn it."""
    rng = np.random.default_rng(0)
    values = rng.gamma(1.0, size=(2 * n, 12)).astype(np.float32)
    boxed, inside = np.arange(2 * n) % 2 == 0, values[:, 0] > values[:, 1]
    none, scale = np.zeros(2 * n, int), np.linspace(0.5, 2, 12).astype(np.float32)
    cells = Cells(values, none, none, none, inside, boxed, np.full(2 * n, np.nan))
    cells = localise.methods.scored_cells(cells, scale)
    weights, offset = METHODS["cell_boxes"].fit(cells, Context([], none, scale))
    seen = np.log1p(values / scale)
    steps = [PCA(k, svd_solver="full"), StandardScaler(), LogisticRegression(C=1e-3)]
    model = make_pipeline(*steps).fit(seen[boxed], inside[boxed])
    np.testing.assert_allclose(seen @ weights + offset, model.decision_function(seen), atol=1e-3)


def test_cells_are_drawn_once_for_all_that_learn_from_them(store, monkeypatch):
    """Boxes and a teacher take rows of the same scores; each method learns as if it were alone."""
    drawn = []
    for name in ("train_cells", "scored_cells"):
        call = getattr(localise.fitting, name)
        monkeypatch.setattr(
            localise.fitting,
            name,
            lambda *a, call=call, name=name, **k: (drawn.append(name), call(*a, **k))[1],
        )
    known = {"boxes": store.boxes, "neurons": TABLE, "weights": WEIGHTS}
    fit = localise.fitting.fit_methods
    both = fit(store, SPLIT == "train", ["cell_boxes", "student"], **known).contexts["top"]
    assert drawn == ["train_cells", "scored_cells"]
    for name in ("cell_boxes", "student"):
        alone = fit(store, SPLIT == "train", name, **known).contexts["top"].fitted[name]
        assert all(map(np.array_equal, both.fitted[name], alone))


def test_the_class_asked_for_decides(store, fitted):
    rows = np.flatnonzero(SPLIT == "test")
    codes = np.searchsorted(CLASSES, store.images["label"].to_numpy(str))[rows]
    own = localise.heat_maps(store, rows, fitted)["best_detector"]
    other = localise.heat_maps(store, rows, fitted, codes=1 - codes)["best_detector"]
    assert (own.max(axis=(1, 2)) > 0.5).all()
    assert (other.max(axis=(1, 2)) < 0.5).all()


def test_pictures_without_labels_are_asked_for_any_class(store, fitted):
    rows = np.flatnonzero(SPLIT == "test")
    codes = np.searchsorted(CLASSES, store.images["label"].to_numpy(str))[rows]
    own = localise.heat_maps(store, rows, fitted)
    # Of other labels, or none, places are still among the classes fitted on.
    for label in ("", "zebra"):
        other = replace(store, images=store.images.assign(label=label))
        asked = localise.heat_maps(other, rows, fitted, codes=codes)
        assert all(np.array_equal(asked[name], own[name]) for name in own)
        with pytest.raises(FeatlabError, match=f"of the label '{label}', .* cat, dog; give codes"):
            localise.heat_maps(other, rows, fitted)
    mixed = replace(store, images=store.images.assign(label=["aa", *store.images["label"][1:]]))
    assert np.array_equal(localise.heat_maps(mixed, rows, fitted)["cam"], own["cam"])


def test_cell_head_is_the_score_of_a_class_less_those_of_others_and_does_not_saturate(
    store, fitted
):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, NEURONS)).astype(np.float32)
    intercepts = rng.normal(size=3).astype(np.float32)
    maps, codes = store.maps([0, 1, 2]), np.array([2, 0, 1])
    context = replace(fitted.contexts["top"].of(codes), weights=weights, intercepts=intercepts)
    heat = METHODS["cell_head"].heat(maps, context)
    for i, y, x in np.ndindex(3, SIDE, SIDE):
        scores = maps[i, y, x].astype(float) @ weights.T + intercepts
        others = np.delete(scores, codes[i])
        assert heat[i, y, x] == pytest.approx(max(scores[codes[i]] - others.mean(), 0), abs=1e-4)
    # Ten times the activation is ten times the heat; a probability would be 1 everywhere.
    two = replace(context, weights=weights[:2], intercepts=np.zeros(2), codes=np.array([1, 0, 1]))
    once, tenfold = (METHODS["cell_head"].heat(x, two) for x in (maps, maps * 10))
    np.testing.assert_allclose(tenfold, once * 10, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_maps_that_are_all_alike_teach_without_a_warning(store):
    alike = replace(store, array=np.ones_like(store.array))
    names = ["ddt", "fusion", "student"]
    fitted = localise.fitting.fit_methods(
        alike, SPLIT == "train", names, boxes=alike.boxes, neurons=TABLE
    )
    for heat in localise.heat_maps(alike, [0, 1], fitted).values():
        assert np.isfinite(heat).all()


def test_the_intercept_of_the_head_reaches_the_method(store):
    head = replace(WEIGHTS, intercept=np.array([-1.0, 2.0]))
    fitted = localise.fitting.fit_methods(
        store, SPLIT == "train", "cell_head", boxes=store.boxes, weights=head
    )
    # The head's classes are dog and cat, the store's cat and dog.
    assert fitted.contexts["top"].intercepts.tolist() == [2, -1]
    heat = localise.heat_maps(store, [0, 1], fitted)["cell_head"]
    logits = store.maps([0, 1]) @ head.coef.T + head.intercept
    cat, dog = logits[0, ..., 1] - logits[0, ..., 0], logits[1, ..., 0] - logits[1, ..., 1]
    np.testing.assert_allclose(heat, np.maximum([cat, dog], 0), atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_mlp_cam_is_the_numerical_gradient(store, fitted, activation, n_classes):
    X = store.pooled().astype(np.float64)
    y = np.arange(len(X)) % n_classes
    net = MLPClassifier((12, 6), activation=activation, max_iter=60, tol=0, random_state=0)
    mlp = Pipeline([("scale", StandardScaler()), ("model", net)]).fit(X, y)
    rows, codes = np.arange(n_classes), np.arange(n_classes)[::-1].copy()
    maps = store.maps(rows)
    context = replace(fitted.contexts["top"].of(codes), mlp=mlp)
    heat = METHODS["mlp_cam"].heat(maps, context)
    X = maps.mean(axis=(1, 2)).astype(np.float64)

    def output(x, code):
        """The class's input to the softmax (of two classes to the sigmoid)."""
        p = mlp.predict_proba(x[None])[0]
        # The softmax forgets a constant: what is differentiated is the network itself.
        if n_classes == 2:
            return np.log(p[code] / p[1 - code])
        values = mlp[0].transform(x[None])
        functions = {
            "relu": lambda z: np.maximum(z, 0),
            "tanh": np.tanh,
            "logistic": lambda z: 1 / (1 + np.exp(-z)),
            "identity": lambda z: z,
        }
        for weights, bias in zip(net.coefs_[:-1], net.intercepts_[:-1], strict=True):
            values = functions[activation](values @ weights + bias)
        last = (values @ net.coefs_[-1] + net.intercepts_[-1])[0]
        np.testing.assert_allclose(np.exp(last) / np.exp(last).sum(), p, atol=1e-9)
        return last[code]

    for i, code in enumerate(codes):
        gradient = [
            (output(X[i] + step, code) - output(X[i] - step, code)) / 2e-5
            for step in np.eye(NEURONS) * 1e-5
        ]
        np.testing.assert_allclose(heat[i], maps[i] @ np.array(gradient), rtol=1e-3, atol=1e-4)


def test_eigen_cam_is_the_first_singular_vector(store, fitted):
    maps = store.maps([0, 1, 2])
    heat = METHODS["eigen_cam"].heat(maps, fitted.contexts["top"].of(np.zeros(3, int)))
    for one, h in zip(maps, heat, strict=True):
        first = np.linalg.svd(one.reshape(-1, NEURONS))[0][:, 0]
        assert abs(np.corrcoef(first, h.ravel())[0, 1]) > 0.9999
        assert np.corrcoef(h.ravel(), one.sum(axis=-1).ravel())[0, 1] > 0


def test_a_signed_layer_is_read_as_what_is_above_and_below_the_mean(store, fitted, mlp):
    """Neurons turned over and moved are the same for every method but what asks raw tokens."""
    sign = np.where(np.arange(NEURONS) % 2, -1, 1).astype(np.float32)
    level = np.linspace(-3, 3, NEURONS, dtype=np.float32)
    train, rows = np.flatnonzero(SPLIT == "train"), np.flatnonzero(SPLIT == "test")
    turned = TABLE.assign(
        direction=np.where(
            sign[TABLE["neuron"]] < 0,
            TABLE["direction"].map({"active": "silent", "silent": "active"}),
            TABLE["direction"],
        )
    )
    centred = store.array - store.array[train].mean(axis=(0, 1, 2))
    heats = []
    for maps, table, coef in (
        (centred, TABLE, WEIGHTS.coef),
        (centred * sign + level, turned, WEIGHTS.coef * sign),
    ):
        signed = replace(store, array=maps.astype(np.float32))
        moved = 0 if maps is centred else level
        weights = replace(WEIGHTS, coef=coef, intercept=-(coef * moved).sum(axis=1))
        names = [name for name in METHODS if name not in ("mlp_cam", "parts", "student")]
        fit = localise.fitting.fit_methods(
            signed, train, names, boxes=store.boxes, neurons=table, weights=weights
        )
        assert fit.contexts["top"].centre is not None
        heats.append(localise.heat_maps(signed, rows, fit))
    assert fitted.contexts["top"].centre is None
    for name, heat in heats[0].items():
        first, second = (localise.heat.normalise(one[name]) for one in heats)
        np.testing.assert_allclose(first, second, atol=2e-2, err_msg=name)
        assert np.ptp(heat) > 0
    maps = store.array[:2] - 1
    centre = maps.mean(axis=(0, 1, 2))
    halves = localise.heat.read(maps, centre)
    assert halves.min() == 0 and halves.shape[-1] == 2 * NEURONS
    np.testing.assert_allclose(localise.heat.unread(halves, centre), maps, atol=1e-5)


def test_graph_methods_follow_their_formulas(store, fitted):
    context = fitted.contexts["top"].of(np.zeros(2, int))
    maps = store.maps([0, 1])
    cut, grown = (
        METHODS[name].heat(maps, context) for name in ("normalised_cut", "seed_expansion")
    )
    for one, heat, seed in zip(maps, cut, grown, strict=True):
        cells = one.reshape(-1, NEURONS).astype(float) - one.mean(axis=(0, 1))
        unit = cells / np.linalg.norm(cells, axis=1, keepdims=True)
        like = unit @ unit.T
        edges = np.maximum(like, 0) + 1e-5
        degree = np.diag(edges.sum(axis=1))
        values, vectors = np.linalg.eig(np.linalg.solve(degree, degree - edges))
        second = vectors[:, np.argsort(values.real)[1]].real
        assert abs(np.corrcoef(second, heat.ravel())[0, 1]) > 0.9999
        assert heat.ravel()[np.abs(heat).argmax()] > 0
        links = [(row > 0).sum() for row in like]
        order = sorted(range(len(links)), key=lambda k: links[k])
        few = [k for k in order[: int(0.4 * len(order))] if like[order[0], k] >= 0]
        np.testing.assert_allclose(like[few].sum(axis=0), seed.ravel(), rtol=1e-3, atol=1e-3)
    # One thing against one ground: both find exactly its cells.
    planted = np.zeros((1, SIDE, SIDE, NEURONS), np.float32) + np.arange(NEURONS)
    planted[0, 2:4, 3:6] = np.arange(NEURONS)[::-1]
    planted += np.random.default_rng(0).normal(scale=0.1, size=planted.shape)
    for name in ("normalised_cut", "seed_expansion"):
        heat = METHODS[name].heat(planted, context)[0]
        inside = np.zeros((SIDE, SIDE), dtype=bool)
        inside[2:4, 3:6] = True
        assert heat[inside].min() > heat[~inside].max()
    flat = METHODS["normalised_cut"].heat(np.ones((1, 3, 3, NEURONS), np.float32), context)
    assert not flat.any()


def test_boxes_of_other_rows_are_not_learnt_from(store, fitted):
    moved = store.boxes.copy()
    unseen = SPLIT[moved["image"]] != "train"
    moved.loc[unseen, bx.CORNERS] = [0.0, 0.0, 1.0, 1.0]
    again = (
        localise.fitting.fit_methods(store, SPLIT == "train", ["cell_boxes"], boxes=moved)
        .contexts["top"]
        .fitted["cell_boxes"]
    )
    np.testing.assert_array_equal(again[0], fitted.contexts["top"].fitted["cell_boxes"][0])
    assert METHODS["cell_boxes"].supervision == "boxes"


def test_without_boxes_the_method_that_needs_them_is_left_out(store):
    none = store.boxes.iloc[:0]
    bare = localise.fitting.fit_methods(store, SPLIT == "train", ["cell_boxes", "sum"], boxes=none)
    assert list(bare.methods) == ["sum"]
    assert bare.left_out == {"cell_boxes": "there was nothing to learn from (boxes)"}
    assert list(localise.heat_maps(store, np.arange(4), bare)) == ["sum"]
    with pytest.raises(FeatlabError, match="'cell_boxes' has no heat maps: there was nothing"):
        localise.heat_maps(store, np.arange(4), bare, methods="cell_boxes")
    with pytest.raises(FeatlabError, match=r"no method has anything to say \(cell_boxes: "):
        localise.fitting.fit_methods(store, SPLIT == "train", "cell_boxes", boxes=none)


def test_a_users_method_takes_five_lines(store):
    @localise.register("cubed", "maps, cubed")
    def cubed(maps, context):
        return (maps**3).sum(axis=-1)

    try:
        found = localise.evaluate_localisation(store, SPLIT, methods=["cubed", "sum"])
        assert {"cubed", "sum"} <= set(found.table["method"])
        assert "detectors" not in set(found.table["method"])
    finally:
        del METHODS["cubed"]


def test_errors_name_what_is_missing(store):
    train = SPLIT == "train"
    with pytest.raises(FeatlabError, match="methods must be from"):
        localise.fitting.fit_methods(store, train, ["magic"], boxes=store.boxes)
    with pytest.raises(FeatlabError, match="'cam' needs weights"):
        localise.fitting.fit_methods(store, train, ["cam"], boxes=store.boxes)
    with pytest.raises(FeatlabError, match="supervision must be"):
        localise.register("x", "x", supervision="magic")


class TestUnits:
    def test_the_shortcut_is_called_out(self):
        store = planted_store()
        # Wherever the object's neuron is quiet: fourteen images show no less.
        store.array[::2, :, :, 3] = 2 - store.array[::2, :, :, 0]
        rows = np.flatnonzero(SPLIT != "train")
        found = unit_localisation(store, rows, TABLE, n_permutations=200)
        verdict = found.set_index(["class", "neuron"])["verdict"]
        assert verdict["cat", 0] == verdict["dog", 1] == "on the object"
        assert verdict["cat", 3] == "beside the object boxes"
        assert verdict["dog", 4] == "not shown"  # fires everywhere alike
        assert ("cat", 4) not in verdict  # silent
        on = found.set_index(["class", "neuron"]).loc[("cat", 0)]
        assert on["auroc_inside"] > 0.99
        assert on["iou"] > 5 * on["iou_chance"] / 2
        assert on["p"] == pytest.approx(1 / 201)

    def test_what_another_kind_of_box_holds_is_said_with_its_name(self):
        store, rows = planted_store(), np.flatnonzero(SPLIT != "train")
        heads = store.boxes.assign(kind="head")
        body = heads.assign(kind="body", xmin=0.0, xmax=70.0)
        body["ymax"] += 10
        wide = cells_in_boxes(store, np.arange(N), (SIDE, SIDE), body).reshape(N, SIDE, SIDE)
        own = cells_in_boxes(store, np.arange(N), (SIDE, SIDE), heads).reshape(N, SIDE, SIDE)
        store.array[:, :, :, 3] += 2 * (wide & ~own)
        said = {}
        for kinds in ([heads], [heads, body]):
            store.boxes = pd.concat(kinds, ignore_index=True)
            found = unit_localisation(store, rows, TABLE, box_kind="head", n_permutations=50)
            verdict = found.set_index(["class", "neuron"])["verdict"]
            said[len(kinds)] = verdict["cat", 3]
            assert verdict["cat", 0] == "on the object"
        assert said == {1: "beside the head boxes", 2: "beside the head boxes, on the body boxes"}

    @pytest.mark.parametrize("n_groups", [6, pytest.param(44, marks=pytest.mark.slow)])
    def test_a_neuron_that_knows_nothing_of_the_object_is_not_called(self, n_groups):
        """Its map is the scene's: images of one group share it, whatever is in them."""
        rng, called = np.random.default_rng(3), 0
        rows = np.flatnonzero(SPLIT != "train")
        table = pd.concat([TABLE[TABLE["class"] == "cat"].iloc[:1].assign(neuron=k)
                           for k in range(NEURONS)])  # fmt: skip
        for _ in range(8):
            store, group = planted_store(), np.arange(N) // 2 % n_groups
            scene = rng.random((n_groups, SIDE, SIDE, NEURONS))
            store.array = (scene[group] + 0.1 * rng.random(store.array.shape)).astype(np.float32)
            store.boxes = store.boxes.assign(
                xmin=10.0 * (group % 4), xmax=10.0 * (group % 4) + 30, ymin=0.0, ymax=30.0
            )
            store.images = store.images.assign(group=np.char.add("s", group.astype(str)))
            found = unit_localisation(store, rows, table, n_permutations=50)
            called += (found["verdict"] != "not shown").any()
        assert called <= 1

    def test_few_groups_show_nothing_and_their_images_do_not_count_as_many(self):
        store = planted_store()
        rows = np.flatnonzero(SPLIT != "train")
        store.images = store.images.assign(group=np.arange(len(store.images)) % 4)
        found = unit_localisation(store, rows, TABLE, n_permutations=50)
        assert set(found["verdict"]) == {"not shown"}
        assert found["p_inside"].dropna().ge(0.125).all()

    def test_a_saturated_neuron_has_active_cells(self):
        store = planted_store()
        store.array = np.minimum(store.array, 0.5)  # a ceiling, as of ReLU6
        rows = np.flatnonzero(SPLIT != "train")
        found = unit_localisation(store, rows, TABLE, n_permutations=50)
        assert found.set_index(["class", "neuron"]).loc[("cat", 0), "iou"] > 0.5

    def test_iou_is_the_plain_count(self, store):
        rows = np.flatnonzero(SPLIT == "test")
        found = unit_localisation(store, rows, TABLE, n_permutations=10).set_index(
            ["class", "neuron"]
        )
        maps = store.maps(rows)[..., 1].reshape(len(rows), -1)
        own = (store.images["label"] == "dog").to_numpy()[rows]
        active = (maps >= np.quantile(maps, 0.95))[own]
        inside = cells_in_boxes(store, rows, (SIDE, SIDE), store.boxes)[own]
        assert found.loc[("dog", 1), "iou"] == pytest.approx(
            (active & inside).sum() / (active | inside).sum()
        )

    def test_cells_in_a_scratch_file_give_what_those_in_memory_give(self, store, monkeypatch):
        rows = np.flatnonzero(SPLIT != "train")
        held = unit_localisation(store, rows, TABLE, n_permutations=50)
        made = []

        def noting(shape):
            made.append(shape)
            return scratch(shape)

        monkeypatch.setattr("featlab.system.machine.IN_MEMORY", 1000)
        monkeypatch.setattr(detectors, "scratch", noting)
        pd.testing.assert_frame_equal(
            held, unit_localisation(store, rows, TABLE, n_permutations=50)
        )
        assert made == [(held["neuron"].nunique(), len(rows), SIDE**2)]

    def test_some_neurons_at_a_time_give_what_all_at_once_give(self, monkeypatch):
        rng = np.random.default_rng(0)
        active, inside = rng.random((7, 30, 9)) < 0.3, rng.random((30, 9)) < 0.4
        whole = detectors._iou(active, inside, 50, np.random.default_rng(1))
        monkeypatch.setattr(detectors, "_NEURONS_AT_ONCE", 3)
        for a, b in zip(
            whole, detectors._iou(active, inside, 50, np.random.default_rng(1)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        shuffled, null = np.random.default_rng(1), []
        for other in [shuffled.permutation(30) for _ in range(50)]:
            both = (active & inside[other]).sum(axis=(1, 2))
            null.append(both / (active.sum(axis=(1, 2)) + inside.sum() - both))
        np.testing.assert_allclose(whole[1], np.mean(null, axis=0))

    @pytest.mark.slow
    def test_of_a_large_class_a_sample_is_judged(self, store, monkeypatch):
        monkeypatch.setattr(detectors, "_MOST_OF_A_CLASS", 12)
        rows = np.flatnonzero(SPLIT != "train")
        found = unit_localisation(store, rows, TABLE, n_permutations=50)
        assert found["n"].max() <= 12
        assert found.set_index(["class", "neuron"]).loc[("cat", 0), "verdict"] == "on the object"

    def test_a_mask_is_the_rows_it_marks(self, store):
        mask = SPLIT == "test"
        one, other = (
            unit_localisation(store, rows, TABLE, n_permutations=20)
            for rows in (mask, np.flatnonzero(mask))
        )
        pd.testing.assert_frame_equal(one, other)
        assert one["n"].max() > 2 and (one["layer"] == "top").all()

    def test_alpha_is_the_interval_s_and_the_bound(self, store):
        wide, narrow = (
            unit_localisation(store, SPLIT == "test", TABLE, n_permutations=99, alpha=alpha)
            for alpha in (0.01, 0.5)
        )
        size = [t["auroc_inside_high"] - t["auroc_inside_low"] for t in (wide, narrow)]
        assert (size[0] > size[1]).any() and (size[0] >= size[1]).all()
        # p is 1 / 100 at least: corrected over four detectors it is above 0.01.
        assert "on the object" not in set(wide["verdict"])
        assert "on the object" in set(narrow["verdict"])
        with pytest.raises(FeatlabError, match="alpha must be above 0 and below 1"):
            unit_localisation(store, [1], TABLE, alpha=0)

    def test_nothing_to_judge(self, store):
        assert unit_localisation(store, [1, 2], TABLE.iloc[:0]).empty
        with pytest.raises(FeatlabError, match="quantile must be above 0 and below 1"):
            unit_localisation(store, [1], TABLE, quantile=1)
