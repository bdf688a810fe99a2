"""The built-in scenes: their truth is true, their colours tell nothing, their texture tells all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featlab import FeatlabError, datasets
from featlab.datasets import CLASSES, _scenes, iter_scenes, make_scenes, write_scenes
from featlab.results.images import Scenes

CORNERS = ["xmin", "ymin", "xmax", "ymax"]
N = 72


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return make_scenes(N)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("set") / "scenes", 5, random_state=3, masks=True)


def bounds(mask: npt.NDArray[np.bool_]) -> list[float]:
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def iou(a: npt.NDArray, b: npt.NDArray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


def held_out_accuracy(X: npt.NDArray, y: npt.NDArray, C: float) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(np.mean(cross_val_predict(model, X, y, cv=folds) == y))


def colour_histogram(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    red, green, blue = (image.reshape(-1, 3) // 64).T.astype(int)
    return np.bincount(16 * red + 4 * green + blue, minlength=64) / red.size


# ------------------------------------------------------------------------------ reproducible


def test_the_same_seed_draws_the_same_scenes_and_another_seed_others() -> None:
    first, again, other = (make_scenes(3, random_state=seed) for seed in (7, 7, 8))
    for a, b in zip(first.images, again.images, strict=True):
        np.testing.assert_array_equal(a, b)
    pd.testing.assert_frame_equal(first.boxes, again.boxes)
    assert (
        first.images[0].shape != other.images[0].shape or (first.images[0] != other.images[0]).any()
    )


@pytest.mark.slow
def test_a_larger_n_appends_scenes(scenes: Scenes) -> None:
    for i, scene in enumerate(iter_scenes(5)):
        np.testing.assert_array_equal(scene.image, scenes.images[i])
        np.testing.assert_array_equal(scene.mask, scenes.masks[i])
        rows = scenes.boxes.loc[scenes.boxes["image"] == i, CORNERS]
        np.testing.assert_array_equal(scene.boxes, rows)
        assert scene.label == scenes.labels[i]


def test_scenes_are_drawn_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(datasets, "draw_scene", lambda i, label, seed: drawn.append(i))
    endless = iter_scenes(10**9)
    assert drawn == []
    next(endless)
    assert drawn == [0]


# ------------------------------------------------------------------------------ truth


def test_boxes_are_the_bounds_of_the_masks(scenes: Scenes) -> None:
    for i, mask in enumerate(scenes.masks):
        boxes = scenes.boxes.loc[scenes.boxes["image"] == i, CORNERS].to_numpy()
        seen = np.zeros_like(mask)
        for box in boxes:
            left, top, right, bottom = box.astype(int)
            inside = np.zeros_like(mask)
            inside[top:bottom, left:right] = mask[top:bottom, left:right]
            assert bounds(inside) == box.tolist()
            assert not (seen & inside).any()
            seen |= inside
        np.testing.assert_array_equal(seen, mask)


def test_another_texture_changes_the_objects_and_nothing_else() -> None:
    for i in range(3):
        one, other = (_scenes.draw_scene(i, label, 0) for label in ("striped", "spotted"))
        np.testing.assert_array_equal(one.mask, other.mask)
        near = ndimage.binary_dilation(one.mask, iterations=6)
        change = np.abs(one.image.astype(int) - other.image).max(axis=2)
        assert change[~near].max() == 0
        assert change[one.mask].mean() > 10


def test_one_in_seven_scenes_has_two_objects_with_separate_boxes(scenes: Scenes) -> None:
    counts = scenes.boxes["image"].value_counts()
    assert set(counts) == {1, 2} and len(counts) == N
    share, error = (counts == 2).mean(), np.sqrt(0.15 * 0.85 / N)
    assert abs(share - 0.15) < 4 * error
    for i in counts.index[counts == 2]:
        first, second = scenes.boxes.loc[scenes.boxes["image"] == i, CORNERS].to_numpy()
        assert iou(first, second) == 0


def test_sizes_places_and_classes_are_spread(scenes: Scenes) -> None:
    assert pd.Series(scenes.labels).value_counts().to_dict() == {
        "striped": N // 2,
        "spotted": N // 2,
    }
    assert {image.shape[1::-1] for image in scenes.images} == set(_scenes.SIZES)
    overlap = []
    for image, (_, rows) in zip(scenes.images, scenes.boxes.groupby("image"), strict=True):
        height, width = image.shape[:2]
        centre = np.array([0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height])
        overlap.append(max(iou(centre, box) for box in rows[CORNERS].to_numpy()))
    assert np.mean(overlap) < 0.3
    sides = scenes.boxes[["xmax", "ymax"]].to_numpy() - scenes.boxes[["xmin", "ymin"]].to_numpy()
    short = np.array([min(scenes.images[i].shape[:2]) for i in scenes.boxes["image"]])
    longer = sides.max(axis=1) / short
    assert 0.23 < longer.min() < 0.3 and 0.55 < longer.max() < 0.62


def test_tables_and_arrays_have_the_agreed_form(scenes: Scenes) -> None:
    assert list(scenes.boxes) == ["image", "kind", "label", *CORNERS]
    assert all(dtype.kind == "f" for dtype in scenes.boxes[CORNERS].dtypes)
    assert set(scenes.boxes["kind"]) == {"object"}
    assert (scenes.boxes["label"] == [scenes.labels[i] for i in scenes.boxes["image"]]).all()
    for image, mask in zip(scenes.images, scenes.masks, strict=True):
        assert image.dtype == np.uint8 and mask.dtype == bool and image.shape == (*mask.shape, 3)


# ------------------------------------------------------------------------------ what tells a class


def test_colour_alone_stands_near_chance(scenes: Scenes) -> None:
    """Within three binomial standard errors of one half: 0.5 +- 0.177 for 72 scenes."""
    X = np.array([colour_histogram(image) for image in scenes.images])
    accuracy = held_out_accuracy(X, np.array(scenes.labels), C=1.0)
    assert abs(accuracy - 0.5) < 3 * np.sqrt(0.25 / N)


def direction_of_edges(image: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_]) -> float:
    """How far the edges inside a mask share one direction: 0 (none) to 1 (structure tensor)."""
    grey = image.astype(float).mean(axis=2)
    inner = ndimage.binary_erosion(mask, iterations=5)
    down, across = (
        ndimage.gaussian_filter(grey, 1.5, order=order)[inner] for order in ((1, 0), (0, 1))
    )
    xx, yy, xy = (across**2).mean(), (down**2).mean(), (across * down).mean()
    return float(np.hypot(xx - yy, 2 * xy) / (xx + yy))


def test_stripes_run_one_way_and_spots_do_not(scenes: Scenes) -> None:
    striped = np.array(scenes.labels) == "striped"
    one_way = np.array(
        [direction_of_edges(i, m) for i, m in zip(scenes.images, scenes.masks, strict=True)]
    )
    assert np.mean((one_way > 0.5) == striped) > 0.95


@pytest.mark.parametrize("label", CLASSES)
def test_every_texture_inks_half_of_its_object(label: str) -> None:
    """No ties at the median, where the drawing parts dark from light, make one of them larger."""
    y, x = np.mgrid[-60:60, -60:60].astype(np.float32) / 14.3
    turned = 0.8 * x - 0.6 * y, 0.6 * x + 0.8 * y
    field = _scenes.TEXTURES[label](np.random.default_rng(0), *turned)
    assert np.isfinite(field).all()
    assert np.mean(field > np.median(field)) == pytest.approx(0.5, abs=0.02)


def test_all_eight_classes_can_be_drawn() -> None:
    assert make_scenes(8, classes=8).labels == list(CLASSES)


# ------------------------------------------------------------------------------ on disk


def test_a_written_folder_has_the_layout(folder: Path) -> None:
    pictures = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    assert pictures == [
        "spotted/scene_0002.jpg",
        "spotted/scene_0004.jpg",
        "striped/scene_0001.jpg",
        "striped/scene_0003.jpg",
        "striped/scene_0005.jpg",
    ]
    everything = {path.name for path in folder.iterdir()}
    assert everything == {"spotted", "striped", "boxes.csv", ".scenes.json"}


def test_written_pictures_boxes_and_masks_are_the_scenes(folder: Path) -> None:
    table = pd.read_csv(folder / "boxes.csv")
    corners = ["width", "height", *CORNERS]
    assert list(table) == ["image", "label", "kind", *corners]
    expected = make_scenes(5, random_state=3)
    np.testing.assert_array_equal(table[CORNERS], expected.boxes[CORNERS])
    for i, (name, rows) in enumerate(table.groupby(table["image"].str[-8:-4])):
        assert int(name) == i + 1
        path = rows["image"].iloc[0]
        with Image.open(folder / path) as picture:
            assert picture.size == tuple(rows[["width", "height"]].iloc[0])
            difference = np.abs(np.asarray(picture, dtype=int) - expected.images[i])
        assert difference.mean() < 8
        with Image.open(folder.with_name("scenes_masks") / path.replace("jpg", "png")) as mask:
            np.testing.assert_array_equal(np.asarray(mask) == 255, expected.masks[i])


def test_a_finished_folder_is_not_drawn_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(datasets, "draw_scene", refuse)
    assert write_scenes(folder, 5, random_state=3, masks=True) == folder


def test_an_interrupted_write_is_completed_by_the_same_call(tmp_path: Path) -> None:
    def stop_after_two(scenes):  # type: ignore[no-untyped-def]
        for count, scene in enumerate(scenes):
            if count == 2:
                raise KeyboardInterrupt
            yield scene

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "set", 4, progress=stop_after_two)
    assert not (tmp_path / "set" / ".scenes.json").exists()
    with pytest.raises(FeatlabError, match="holds scenes made with"):
        write_scenes(tmp_path / "set", 3)
    write_scenes(tmp_path / "set", 4)
    names = sorted(path.name for path in (tmp_path / "set").rglob("*") if path.is_file())
    assert names == [".scenes.json", "boxes.csv", *(f"scene_{i:04d}.jpg" for i in range(1, 5))]


def test_a_picture_that_went_missing_is_written_again(tmp_path: Path) -> None:
    root = write_scenes(tmp_path, 2)
    lost = root / "striped" / "scene_0001.jpg"
    before = lost.read_bytes()
    lost.unlink()
    write_scenes(root, 2)
    assert lost.read_bytes() == before


def test_a_folder_with_other_content_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(FeatlabError, match="was not written by write_scenes"):
        write_scenes(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_folder_of_other_scenes_is_refused(folder: Path) -> None:
    with pytest.raises(FeatlabError, match="holds scenes made with .*'n': 5.* asked for"):
        write_scenes(folder, 6, random_state=3, masks=True)
    assert json.loads((folder / ".scenes.json").read_text())["n"] == 5


# ------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("n", "options", "words"),
    [
        (1, {}, r"n must be at least classes \(2\).*got 1"),
        (4, {"classes": 5}, r"n must be at least classes \(5\)"),
        (9, {"classes": 1}, "classes must lie between 2 and 8, got 1"),
        (9, {"classes": 9}, "classes must lie between 2 and 8, got 9"),
        (9, {"random_state": -1}, "random_state must be 0 or more, got -1"),
        (2.5, {}, "n must be a whole number, got 2.5"),
        (9, {"random_state": None}, "random_state must be a whole number, got None"),
    ],
)
def test_arguments_out_of_range_are_refused_at_the_call(
    n: int, options: dict[str, int], words: str, tmp_path: Path
) -> None:
    with pytest.raises(FeatlabError, match=words):
        make_scenes(n, **options)
    with pytest.raises(FeatlabError, match=words):
        iter_scenes(n, **options)
    with pytest.raises(FeatlabError, match=words):
        write_scenes(tmp_path / "never", n, **options)
    assert not (tmp_path / "never").exists()
