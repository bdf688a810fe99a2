"""The published recipe of analysis/published_protocol.py: its leak, and the honest split."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_boxheads import scene_store

from featlab import FeatlabError

SCRIPT = Path(__file__).resolve().parents[1] / "analysis" / "published_protocol.py"


@pytest.fixture(scope="module")
def protocol():
    """The script as a module; what lies beside it is found."""
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec.loader.exec_module(module)
    return module


def test_breeds_are_read_from_file_names(protocol):
    paths = ["cat/Maine_Coon_12.jpg", "dog/pug_3.jpg", "plain.png"]
    assert protocol.breed_names(paths) == ["Maine_Coon", "pug", "plain"]


def test_the_honest_split_keeps_duplicates_and_groups_together(protocol):
    images = scene_store(60).images
    pairs = pd.DataFrame({"row_a": [0, 1, 2, 3], "row_b": [10, 2, 13, 30]})
    sides = protocol.honest_split(images, images["label"], pairs)
    assert sides[0] == sides[10] and sides[1] == sides[2] == sides[13] and sides[3] == sides[30]
    assert set(sides) == {"train", "confirm", "test"}
    shares = pd.crosstab(images["label"], sides, normalize="index")
    assert np.allclose(shares["test"], 0.3, atol=0.07)
    images["group"] = [f"g{k // 4}" for k in range(60)]
    sides = protocol.honest_split(images, images["label"], pairs)
    grouped = pd.Series(sides).groupby(images["group"].to_numpy()).nunique()
    assert (grouped == 1).all() and sides[0] == sides[10]
    with pytest.raises(FeatlabError, match="rows 0 … 59"):
        protocol.honest_split(images, images["label"], pairs + 60)


def test_what_is_learned_is_the_largest_box_in_the_frame_of_the_input(protocol):
    store = scene_store(20, pad=True, spare=3)
    truth = protocol.largest_boxes(store, None)
    own = store.boxes[["xmin", "ymin", "xmax", "ymax"]].to_numpy()
    assert np.allclose(truth[3:], protocol.in_frame(store, np.arange(3, 20), own))
    assert np.isnan(truth[:3]).all()
    several = protocol.largest_boxes(scene_store(20, pad=True, distractors=True), None)
    assert np.allclose(several[3:], truth[3:])


def test_classes_need_an_entry_per_image(protocol):
    with pytest.raises(FeatlabError, match="classes must have one entry per image"):
        protocol.published_protocol(scene_store(20), classes=["a"] * 19)


@pytest.mark.slow
def test_the_protocol_both_ways(protocol):
    heads = ("ridge_pca", "pls")
    table = protocol.published_protocol(
        scene_store(160, spare=10), epochs=2, joint_heads=("flatten",), heads=heads
    )
    assert table["protocol"].tolist() == ["as published"] + ["honest"] * 4
    assert table["leak"].tolist() == [True] + [False] * 4
    classical = table.iloc[2:]  # Two epochs in pixels leave the joint head near the origin.
    assert (classical["legacy_iou"] > classical["mean_iou"]).all()
    assert table["head"].tolist() == ["flatten", "flatten", *heads, "mean_box"]
    assert len(set(table["n"])) == len(set(table["n_fit"])) == 1
