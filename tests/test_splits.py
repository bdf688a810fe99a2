from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featlab import FeatlabError
from featlab.splits import make_split

SIDES = ["train", "confirm", "test"]


def image_table(sizes, *, group=None, sha256=None, split=None):
    labels = np.repeat(list(sizes), list(sizes.values()))
    n = len(labels)
    return pd.DataFrame(
        {
            "path": [f"{label}/{i:04d}.jpg" for i, label in enumerate(labels)],
            "label": labels,
            "group": [""] * n if group is None else group,
            "split": [""] * n if split is None else split,
            "sha256": [f"{i:x}" for i in range(n)] if sha256 is None else sha256,
        }
    ).sort_values("path", ignore_index=True)


@example([3, 3], (0.6, 0.2, 0.2), 0)  # the last side would have none
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(3, 90), min_size=2, max_size=6),
    st.sampled_from([(0.5, 0.2, 0.3), (0.6, 0.2, 0.2), (0.34, 0.33, 0.33)]),
    st.integers(0, 5),
)
def test_stratified_to_one_image(sizes, fractions, seed):
    images = image_table({f"c{i}": n for i, n in enumerate(sizes)})
    split = make_split(images, fractions=fractions, random_state=seed)
    for label, n in images["label"].value_counts().items():
        for side, fraction in zip(SIDES, fractions, strict=True):
            count = int(((images["label"] == label) & (split == side)).sum())
            assert abs(count - fraction * n) <= 1
            assert count >= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_groups_and_copies_stay_together(seed):
    rng = np.random.default_rng(seed)
    n = 120
    images = image_table(
        {"a": n // 2, "b": n // 2},
        group=[f"g{i}" if i < 25 else "" for i in rng.integers(0, 60, n)],
        sha256=[f"{i:x}" for i in rng.integers(0, 100, n)],
    )
    split = make_split(images, random_state=seed)
    named = images["group"] != ""
    assert split[named].groupby(images["group"][named]).nunique().max() == 1
    assert split.groupby(images["sha256"]).nunique().max() == 1
    assert set(split) == set(SIDES)
    assert split.groupby(images["label"]).nunique().eq(3).all()


def test_chains_of_groups_and_copies_are_one_unit():
    images = image_table({"a": 12, "b": 12})
    images.loc[[0, 1], "group"] = "g"
    images.loc[[1, 2], "sha256"] = "same"
    images.loc[[2, 3], "group"] = "h"
    for seed in range(10):
        assert len(set(make_split(images, random_state=seed).iloc[:4])) == 1


def test_row_order_does_not_matter():
    rng = np.random.default_rng(0)
    images = image_table({"a": 40, "b": 25}, group=[f"g{i}" for i in rng.integers(0, 30, 65)])
    split = make_split(images)
    shuffled = images.sample(frac=1, random_state=1)
    again = make_split(shuffled)
    assert again.index.equals(shuffled.index)
    pd.testing.assert_series_equal(again.sort_index(), split)


def test_seed():
    images = image_table({"a": 40, "b": 40})
    pd.testing.assert_series_equal(make_split(images), make_split(images))
    assert not make_split(images).equals(make_split(images, random_state=1))
    assert make_split(images).name == "split"


def test_every_image_is_equally_likely_to_be_tested():
    images = image_table({"a": 10, "b": 10})
    tested = np.mean(
        [make_split(images, random_state=seed).to_numpy() == "test" for seed in range(100)], axis=0
    )
    assert abs(tested - 0.3).max() < 0.18  # four standard errors


def test_grouped_shares_are_close():
    rng = np.random.default_rng(0)
    images = image_table({"a": 400, "b": 200}, group=[f"g{i}" for i in rng.integers(0, 100, 600)])
    shares = make_split(images).value_counts(normalize=True)
    np.testing.assert_allclose(shares[SIDES], [0.4, 0.3, 0.3], atol=0.03)
    shares = make_split(images, fractions=(0.5, 0.2, 0.3)).value_counts(normalize=True)
    np.testing.assert_allclose(shares[SIDES], [0.5, 0.2, 0.3], atol=0.03)


def test_a_few_copies_leave_the_shares_as_they_are_and_many_do_not():
    images = image_table({"a": 120, "b": 80})
    images.loc[[0, 1, 2, 3, 150, 151], "group"] = ["x", "x", "y", "y", "z", "z"]
    split = make_split(images)
    assert split.value_counts().to_dict() == {"train": 100, "test": 60, "confirm": 40}
    assert split.groupby(images["group"].replace("", pd.NA)).nunique().eq(1).all()
    images["group"] = [f"photo {i // 5}" for i in range(200)]
    assert make_split(images).value_counts(normalize=True)["train"] == pytest.approx(0.4, abs=0.03)
    # Images that a person gave a group each are single images.
    images["group"] = [f"photo {i}" for i in range(200)]
    assert make_split(images).value_counts()["train"] == 100


def test_columns_may_be_absent():
    images = image_table({"a": 10, "b": 10})
    split = make_split(images[["path", "label"]])
    pd.testing.assert_series_equal(split, make_split(images))
    with pytest.raises(FeatlabError, match="no column path; make it"):
        make_split(images[["label"]])


class TestTooFew:
    def test_images(self):
        with pytest.raises(FeatlabError, match=r"'b' has 2 images in 2 independent units.*add"):
            make_split(image_table({"a": 10, "b": 2}))
        with pytest.raises(FeatlabError, match="'b' has 1 image; splitting into train, confirm"):
            make_split(image_table({"a": 10, "b": 1}))

    def test_without_labels(self):
        with pytest.raises(
            FeatlabError, match=r"without labels needs at least 3 pictures .* got 2"
        ):
            make_split(image_table({"": 2}))

    def test_groups(self):
        images = image_table({"a": 10, "b": 9}, group=[""] * 10 + ["g", "h", "h"] * 3)
        with pytest.raises(FeatlabError, match="'b' has 9 images in 2 independent units"):
            make_split(images)

    def test_groups_that_tie_classes_together(self):
        images = image_table({"a": 5, "b": 4}, group=[f"g{i}" for i in (1, 0, 3, 1, 2, 0, 2, 0, 3)])
        with pytest.raises(FeatlabError, match="'b' has no image left for 'test': its groups are"):
            make_split(images)

    def test_classes(self):
        with pytest.raises(FeatlabError, match="at least two classes"):
            make_split(image_table({"a": 10}))

    @pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.5, 0.5, 0.5), (0.7, 0.3, 0.0)])
    def test_fractions(self, fractions):
        with pytest.raises(FeatlabError, match="three positive numbers"):
            make_split(image_table({"a": 10, "b": 10}), fractions=fractions)


class TestGiven:
    def given_table(self, words, each=10):
        split = [word for word in words for _ in range(each)] * 2
        return image_table({"a": each * len(words), "b": each * len(words)}, split=split)

    def test_all_three(self):
        images = self.given_table(["train", "val", "test"])
        expected = images["split"].replace("val", "confirm")
        assert make_split(images).tolist() == expected.tolist()

    def test_its_own_words_are_understood(self):
        images = image_table({"a": 20, "b": 20})
        images["split"] = make_split(images)
        assert make_split(images, random_state=9).tolist() == images["split"].tolist()

    @pytest.mark.parametrize(
        ("words", "carved", "share"),
        [
            (["train", "test"], ["confirm"], 2 / 7),
            (["train", "val"], ["test"], 3 / 8),
            (["train"], ["confirm", "test"], 0.5),
        ],
    )
    @pytest.mark.parametrize("each", [8, 56])
    def test_missing_sides_are_carved_from_train(self, words, carved, share, each):
        images = self.given_table(words, each=each)
        split = make_split(images)
        assert set(split) == set(SIDES)
        given_train = images["split"] == "train"
        mapped = images["split"].replace("val", "confirm")
        assert (split == mapped)[~given_train].all()
        of_class = split[given_train].isin(carved).groupby(images["label"]).sum()
        assert of_class.tolist() == [round(share * each)] * 2

    def test_copies_across_sides_move_to_train(self, caplog):
        images = self.given_table(["train", "val", "test"])
        images.loc[[0, 25], "sha256"] = "same"  # a: train and test
        images.loc[[45, 55], "sha256"] = "also"  # b: val and test
        with caplog.at_level(logging.WARNING):
            split = make_split(images)
        assert (split.loc[[0, 25, 45, 55]] == "train").all()
        assert "3 images lie byte-identically" in caplog.text
        rest = images.drop([0, 25, 45, 55]).index
        assert (split == images["split"].replace("val", "confirm"))[rest].all()

    def test_a_group_on_two_sides_is_refused(self):
        images = self.given_table(["train", "val", "test"])
        images.loc[[0, 25], "group"] = "one scene"
        with pytest.raises(FeatlabError, match="one group on several sides: 'one scene'; give"):
            make_split(images)
        images.loc[[25], "group"] = "another"
        assert set(make_split(images)) == set(SIDES)
        images.loc[:49, "group"] = [f"scene {i % 5}" for i in range(50)]
        with pytest.raises(
            FeatlabError, match="sides: 'scene 0', 'scene 1', 'scene 2' and 2 more; give the whole"
        ):
            make_split(images)

    def test_all_of_a_side_are_copies(self):
        images = self.given_table(["train", "test"], each=5)
        images["sha256"] = images["label"]
        with pytest.raises(FeatlabError, match="Every image of the given 'test' split"):
            make_split(images)

    def test_partly_filled(self):
        images = self.given_table(["train", "test"])
        images.loc[3, "split"] = ""
        with pytest.raises(FeatlabError, match="empty for 1 of 40 images"):
            make_split(images)

    def test_unknown_word(self):
        with pytest.raises(FeatlabError, match="got 'holdout'"):
            make_split(self.given_table(["train", "holdout"]))

    def test_no_train(self):
        with pytest.raises(FeatlabError, match="no 'train' image"):
            make_split(self.given_table(["val", "test"]))


def test_a_missing_group_is_no_group_however_it_is_written():
    images = image_table({"a": 20, "b": 20})
    blank = make_split(images)
    for missing in (None, np.nan, pd.NA):
        groups = pd.Series([missing] * len(images), dtype=object)
        assert make_split(images.assign(group=groups)).tolist() == blank.tolist()


def test_labels_may_be_numbers_but_not_missing():
    images = image_table({"0": 20, "1": 20})
    split = make_split(images)
    assert make_split(images.assign(label=images["label"].astype(int))).tolist() == split.tolist()
    with pytest.raises(FeatlabError, match="label holds 1 missing"):
        make_split(images.assign(label=[None, *images["label"][1:]]))


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ("train train train test test test", "'b' has images only on the given side test, none on"),
        ("train train test train train val", "given side 'confirm' has images of one class alone"),
    ],
)
def test_given_sides_must_hold_the_classes(sides, message):
    images = image_table({"a": 3, "b": 3, "c": 3})
    with pytest.raises(FeatlabError, match=message):
        make_split(images.assign(split=[*sides.split(), "train", "train", "train"]))
