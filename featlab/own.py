"""The network's own classes, asked of a store: nothing is run again.

A classifier was trained to tell classes of its own (ImageNet's, say). A store keeps what it said of
each picture and, where a linear layer follows the mean-pooled maps, that layer's weights. Then CAM
and boxes are there for any of these classes, and for every neuron the class that it votes for.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featlab.arguments import check_between, check_whole, group_codes, row_numbers
from featlab.boxes.geometry import CORNERS
from featlab.errors import FeatlabError
from featlab.intervals import share_interval
from featlab.localise import heat_boxes
from featlab.localise.heat import cam_heat, picture_sizes
from featlab.localise.regions import FIXED_THRESHOLD
from featlab.store import MapStore
from featlab.store.network import OwnHead

__all__ = ["own_boxes", "own_heats", "own_logits", "own_pictures", "own_set", "own_votes"]

_NAMED = 3  # classes that a neuron's votes are told of
_MOST_RANKED = 5000  # images that the votes are held against
_Z = 1.959964


def own_logits(store: MapStore, rows: Any = None) -> np.ndarray:
    """Every logit of the network's own head, ``(k, classes)`` float32, in the head's order.

    Parameters
    ----------
    store : MapStore
    rows : int, slice, sequence of int or boolean mask, optional
        Row numbers of the image table; all by default.

    Raises
    ------
    FeatlabError
        The store has none; or only the largest, and the head is not linear.
    """
    asked = row_numbers(rows, store.images)
    codes, logits, _ = store.own_kept(asked)
    head = _head(store)
    if logits.shape[1] == len(head.classes):
        whole = np.empty_like(logits)
        np.put_along_axis(whole, codes.astype(np.int64), logits, axis=1)
        return whole
    if not head.linear:
        raise FeatlabError(
            f"{store.path} keeps only the {logits.shape[1]} largest logits of each image, and its "
            'network\'s head is not linear; extract it with PassOptions(own_logits="all") '
            "(--own-logits all)."
        )
    return head.logits(store.pooled(asked, layer=head.layer))


def own_pictures(store: MapStore, rows: Any = None, *, most: int = 5) -> pd.DataFrame:
    """What the network calls each picture.

    Parameters
    ----------
    store : MapStore
    rows : int, slice, sequence of int or boolean mask, optional
        All by default.
    most : int
        Classes of each picture, at most so many as are kept (10, or all).

    Returns
    -------
    DataFrame
        ``row, path, label, rank, own_class, own_probability``: the most probable first; a softmax
        over all of the network's classes, not calibrated.

    Raises
    ------
    FeatlabError
        The store has no classes of the network's own.
    """
    check_whole("most", most, 1)
    asked = row_numbers(rows, store.images)
    codes, logits, totals = (values[:, :most] for values in store.own_kept(asked))
    m = codes.shape[1]
    images = store.images.iloc[np.repeat(asked, m)]
    return pd.DataFrame(
        {
            "row": np.repeat(asked, m),
            "path": images["path"].to_numpy(),
            "label": images["label"].to_numpy(),
            "rank": np.tile(np.arange(1, m + 1), len(asked)),
            "own_class": np.array(_head(store).classes, dtype=object)[codes.ravel()],
            "own_probability": np.exp(logits - totals).ravel(),
        }
    )


def own_set(store: MapStore, rows: Any = None, *, most: int = 10) -> pd.DataFrame:
    """What the network calls the pictures of the set, and of each of the user's classes.

    Parameters
    ----------
    store : MapStore
    rows : int, slice, sequence of int or boolean mask, optional
        All by default.
    most : int
        Of each class, the own classes named most often.

    Returns
    -------
    DataFrame
        ``label`` ("": all images), ``n`` (its images), ``own_class, images`` (called so before
        anything else), ``share, share_low, share_high`` (95 %), ``own_probability`` (mean over
        those images); the commonest first. Where there are labels, this is the confusion of the
        two.

    Raises
    ------
    FeatlabError
        The store has no classes of the network's own.
    """
    check_whole("most", most, 1)
    first = own_pictures(store, rows, most=1)
    labels = sorted(set(first["label"]) - {""})
    parts = [_called(first, "", most)]
    parts += [_called(first[first["label"] == label], label, most) for label in labels]
    return pd.concat(parts, ignore_index=True)


def _called(first: pd.DataFrame, label: str, most: int) -> pd.DataFrame:
    """The own classes of some images, by the first of each."""
    named = first.groupby("own_class", sort=True)["own_probability"].agg(["size", "mean"])
    named = named.sort_values("size", ascending=False, kind="stable").head(most)
    n = len(first)
    ends = np.array([share_interval(count, n) for count in named["size"]]).reshape(-1, 2)
    return pd.DataFrame(
        {
            "label": label,
            "n": n,
            "own_class": named.index.to_numpy(object),
            "images": named["size"].to_numpy(np.int64),
            "share": named["size"].to_numpy(float) / max(n, 1),
            "share_low": ends[:, 0],
            "share_high": ends[:, 1],
            "own_probability": named["mean"].to_numpy(float),
        }
    )


def own_heats(store: MapStore, rows: Any, classes: str | ArrayLike | None = None) -> np.ndarray:
    """Class activation maps for classes of the network's own.

    Parameters
    ----------
    store : MapStore
    rows : int, slice, sequence of int or boolean mask
        Only their maps are read.
    classes : str or sequence of str, optional
        One for all, or one for each row; by default what the network calls each.

    Returns
    -------
    ndarray of shape (k, h, w), float32
        Over the network's input, not normalised; its mean and the class's intercept are the logit.

    Raises
    ------
    FeatlabError
        The head is not linear in the pooled maps; a class is none of the network's.

    References
    ----------
    Zhou et al. (2016). Learning deep features for discriminative localization. CVPR.
    """
    asked = row_numbers(rows, store.images)
    codes = _asked_codes(store, asked, classes)
    head = _linear(store)
    assert head.coef is not None
    parts, done = [np.zeros((0, *store.map_shape(head.layer)[:2]), np.float32)], 0
    for chunk, maps in store.iter_maps(asked, layer=head.layer):
        parts.append(cam_heat(maps, head.coef[codes[done : done + len(chunk)]]))
        done += len(chunk)
    return np.concatenate(parts)


def own_boxes(
    store: MapStore,
    rows: Any = None,
    classes: str | ArrayLike | None = None,
    *,
    threshold: float = FIXED_THRESHOLD,
) -> pd.DataFrame:
    """Boxes for classes of the network's own, from their class activation maps.

    Parameters
    ----------
    store : MapStore
    rows : int, slice, sequence of int or boolean mask, optional
        All by default.
    classes : str or sequence of str, optional
        As for :func:`own_heats`.
    threshold : float
        Share of the heat map's range from which a cell counts, in [0, 1). No box of the set is
        looked at.

    Returns
    -------
    DataFrame
        ``row, path, own_class, xmin, ymin, xmax, ymax`` in pixels of the picture.

    Raises
    ------
    FeatlabError
        As for :func:`own_heats`, or the threshold is out of range.
    """
    check_between("threshold", threshold, 0, 1, without=[1])
    asked = row_numbers(rows, store.images)
    codes = _asked_codes(store, asked, classes)
    names = np.array(_head(store).classes, dtype=object)[codes]
    boxes = np.zeros((0, 4))
    if len(asked):
        heats = own_heats(store, asked, names)
        frames, sizes = store.frames[asked], picture_sizes(store, asked)
        boxes = heat_boxes(heats, [threshold], frames=frames, sizes=sizes)[:, 0]
    table = pd.DataFrame(
        {"row": asked, "path": store.images["path"].to_numpy()[asked], "own_class": names}
    )
    return table.assign(**dict(zip(CORNERS, boxes.T, strict=True)))


def own_votes(store: MapStore, *, random_state: int = 0) -> pd.DataFrame:
    """Which of the network's classes each neuron votes for, and whether the pictures agree.

    A vote is the neuron's weight for a class, less its mean over the classes: a softmax does not
    see what is added to all. The pictures agree if the network calls them more like the class the
    more active the neuron is: the rank correlation of the neuron with the class's logit, the
    neuron's own part in it left out.

    Parameters
    ----------
    store : MapStore
    random_state : int
        Of more than 5,000 images as many are drawn.

    Returns
    -------
    DataFrame, one row per neuron
        ``layer, neuron, votes_for`` (the three classes of the largest votes, ``|`` between them),
        ``vote`` (the first one's), ``vote_agreement, vote_agreement_low, vote_agreement_high``
        (Spearman's, with a 95 % interval over groups or images; NaN for a neuron that is constant).

    Raises
    ------
    FeatlabError
        The head is not linear in the pooled maps.

    References
    ----------
    Bonett & Wright (2000). Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations. Psychometrika 65, 23-28 (the interval).
    """
    head = _linear(store)
    assert head.coef is not None
    drawn = np.random.default_rng(random_state).permutation(len(store))[:_MOST_RANKED]
    rows = np.sort(drawn)
    pooled = store.pooled(rows, layer=head.layer)
    votes = head.coef - head.coef.mean(axis=0)
    order = np.argsort(-votes, axis=0, kind="stable")[:_NAMED]
    best, neurons = order[0], np.arange(votes.shape[1])
    rest = head.logits(pooled)[:, best] - pooled * head.coef[best, neurons]
    r = _column_correlations(pd.DataFrame(pooled).rank(), pd.DataFrame(rest).rank())
    groups = store.images["group"].to_numpy(str)[rows]
    low, high = _interval(r, len(np.unique(group_codes(groups, len(rows)))))
    names = np.array(head.classes, dtype=object)
    return pd.DataFrame(
        {
            "layer": head.layer,
            "neuron": neurons,
            "votes_for": ["|".join(names[some]) for some in order.T],
            "vote": votes[best, neurons],
            "vote_agreement": r,
            "vote_agreement_low": low,
            "vote_agreement_high": high,
        }
    )


def _column_correlations(a: pd.DataFrame, b: pd.DataFrame) -> np.ndarray:
    """Pearson's of each column of one table with the same one of another; NaN where constant."""
    x, y = (table.to_numpy(float) - table.to_numpy(float).mean(axis=0) for table in (a, b))
    length = np.sqrt((x**2).sum(axis=0) * (y**2).sum(axis=0))
    blank = np.full(x.shape[1], np.nan)
    return np.divide((x * y).sum(axis=0), length, out=blank, where=length > 0)


def _interval(r: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of Spearman's r by Fisher's z; NaN of fewer than four units."""
    if n < 4:
        return np.full(len(r), np.nan), np.full(len(r), np.nan)
    z = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))
    half = _Z * np.sqrt((1 + r**2 / 2) / (n - 3))
    return np.tanh(z - half), np.tanh(z + half)


def _head(store: MapStore) -> OwnHead:
    head = store.own_head
    if head is None:
        store.own_kept([])  # says why
    assert head is not None
    return head


def _linear(store: MapStore) -> OwnHead:
    head = _head(store)
    if not head.linear:
        raise FeatlabError(
            f"the head of the network of {store.path} is not one linear layer on the mean-pooled "
            "maps, so its classes have no weights of the maps. Heat maps and boxes need gradients "
            "through the network: pipeline.analyse_gradients(target='own') (featlab gradients "
            "--target own)."
        )
    return head


def _asked_codes(store: MapStore, rows: np.ndarray, classes: str | ArrayLike | None) -> np.ndarray:
    """Place of the class asked for in each row."""
    if classes is None:
        return store.own_kept(rows)[0][:, 0].astype(np.int64)
    known = {name: code for code, name in enumerate(_head(store).classes)}
    names = [classes] * len(rows) if isinstance(classes, str) else np.asarray(classes, dtype=object)
    if len(names) != len(rows):
        raise FeatlabError(
            f"classes must be one for each of the {len(rows)} rows, got {len(names)}."
        )
    unknown = [name for name in names if name not in known]
    if unknown:
        raise FeatlabError(
            f"classes must be of the network's own {len(known)}, such as {next(iter(known))!r}, "
            f"got {unknown[0]!r}."
        )
    return np.array([known[name] for name in names], dtype=np.int64)
