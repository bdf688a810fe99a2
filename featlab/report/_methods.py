"""The methods paragraphs, written from the provenance and the parameters of the tables."""

from __future__ import annotations

import pandas as pd

from featlab.report import _words as words
from featlab.report._grids import shown_value
from featlab.report._references import Citations, Reference
from featlab.results.analysis import Results

_TESTS = {
    "mannwhitneyu": "the Mann-Whitney test",
    "welch": "Welch's t-test",
    "brunner_munzel": "the Brunner-Munzel test",
    "kolmogorov_smirnov": "the Kolmogorov-Smirnov test",
    "mutual_information": "the likelihood-ratio test of binned activations",
}
_CORRECTIONS = {
    "fdr_bh": "Benjamini and Hochberg's false discovery rate",
    "fdr_by": "Benjamini and Yekutieli's false discovery rate",
    "bonferroni": "Bonferroni",
    "holm": "Holm",
    "local_fdr": "Efron's local false discovery rate",
    "max_t": "permutation of the labels (single-step max-T)",
}
_NETWORKS = {
    "efficientnet": "efficientnet",
    "mobilenetv2": "mobilenetv2",
    "resnet": "resnet",
    "vgg": "vgg",
}
_CONFIRMED_BY = {
    "images": "a one-sided Mann-Whitney test",
    "whole groups": "a one-sided t-test of the groups' mean ranks",
    "images within groups": "a one-sided Wilcoxon test stratified by group",
}


def methods(results: Results) -> tuple[list[str], list[Reference]]:
    """What was done, from the provenance and from the parameters that the tables carry.

    Returns
    -------
    paragraphs : list of str
        Network, split, heads, detectors, localisation, the set at a glance, gradients, software;
        plain text with numbers of the literature in brackets.
    references : list of Reference
        The literature in the order of its numbers.
    """
    citations = Citations()
    paragraphs = [
        _network(results, citations),
        _split(results, citations),
        _heads(results, citations),
        _detectors(results.neurons, citations),
        _localisation(results, citations),
        _glance(results, citations),
        _gradients(results, citations),
        _software(results.store.provenance, citations),
    ]
    return [paragraph for paragraph in paragraphs if paragraph], citations.cited


def _network(results: Results, citations: Citations) -> str:
    known = {key: shown_value(value) for key, value in results.store.provenance.items()}
    h, w, c = results.store.map_shape()
    resize = {
        "stretch": "stretched to the input's shape",
        "pad": "fitted into the input with padding",
    }.get(known.get("resize", ""), known.get("resize", "resized"))
    name, weights, sha = (known.get(key, "") for key in ("backbone", "weights", "weights_sha256"))
    works = [work for start, work in _NETWORKS.items() if name.lower().startswith(start)]
    described = citations.cite(*works)
    trained = citations.cite("imagenet") if weights.lower() == "imagenet" else ""
    parts = [
        f"Feature maps were computed once with {name or 'a frozen network'}",
        described,
        f", weights {weights}{trained}" if weights else "",
        f" (SHA-256 {sha[:12]}…)" if sha else "",
        f", input {known['input_size']} pixels" if "input_size" in known else "",
        f", preprocessing {known['preprocessing']}" if "preprocessing" in known else "",
        f"; pictures were {resize}. Layers stored: {', '.join(results.store.layers)}; the last "
        f"gives {h} × {w} cells of {c:,} neurons. The network was not trained further.",
    ]
    return "".join(parts)


def _split(results: Results, citations: Citations) -> str:
    counts = pd.Series(list(results.split)).value_counts()
    sizes = ", ".join(f"{counts.get(side, 0):,} {side}" for side in ("train", "confirm", "test"))
    grouped = results.store.images["group"].astype(str).ne("").any()
    return (
        f"The images were split into {sizes}"
        f"{', whole groups on one side' if grouped else ''}. Everything was fitted and selected on "
        "train, detectors were judged and thresholds chosen on confirm, and scores were measured "
        "on test: what is chosen and judged on the same images is flattered"
        f"{citations.cite('double_dipping')}."
    )


def _heads(results: Results, citations: Citations) -> str:
    table = results.heads.table
    settings = "; ".join(
        f"{words.readable(row['head'])}: {row['parameters']}"
        for _, row in table.iterrows()
        if str(row["parameters"]).strip() not in ("", "nan", "None")
    )
    text = (
        f"Heads{citations.cite('scikit-learn')} were fitted on train images, with tuning by "
        f"cross-validation inside train{f' ({settings})' if settings else ''}"
    )
    text += f".{_intervals(table, citations)}"
    if results.head_details is not None and len(results.head_details.pairs):
        tests = results.head_details.pairs["test"].astype(str)
        if tests.str.contains("McNemar").any():
            text += (
                " Two heads were compared on the same images by McNemar's test"
                f"{citations.cite('mcnemar')}, corrected by Holm{citations.cite('holm')}."
            )
    return text


def _intervals(table: pd.DataFrame, citations: Citations) -> str:
    """How the intervals of the heads came about, as their column says."""
    kinds = table.get("interval", pd.Series(dtype=str)).astype(str)
    if kinds.str.contains("cluster").any():
        return (
            " Their 95 % intervals come from resampling whole groups of test images"
            f"{citations.cite('clustered_bootstrap')}."
        )
    if kinds.str.contains("wilson").any():
        return (
            f" Their 95 % intervals are Wilson's for the accuracy{citations.cite('wilson')}, and "
            f"from resampling test images for the other scores{citations.cite('bootstrap')}."
        )
    return ""


def _detectors(table: pd.DataFrame, citations: Citations) -> str:
    known = table.attrs
    if "test" not in known:
        return ""
    test = _TESTS.get(known["test"], known["test"]) + citations.cite(known["test"])
    correction = known.get("correction", "none")
    corrected = _CORRECTIONS.get(correction, correction) + citations.cite(correction)
    family = known.get("n_tests", int(table["p"].notna().sum()))
    dead = int(table["p"].isna().sum())
    text = (
        f"Each neuron's pooled activation in a class was compared with all other images by {test}, "
        f"corrected by {corrected} over one family of {family:,} tests (all layers, poolings, "
        f"classes and neurons; {words.plural(dead, 'constant one', 'constant ones')} left out). "
        f"A neuron was selected as a detector with an adjusted p ≤ {known.get('alpha')} and an "
        f"AUROC of at least {known.get('min_auroc')} (or, as a silent one, at most 1 minus that). "
        f"Intervals of the AUROC are DeLong's{citations.cite('delong')}, and score intervals where "
        f"a class is separated perfectly{citations.cite('newcombe')}."
    )
    if "confirm_alpha" in known:
        key, unit = known.get("confirm_correction", ""), known.get("confirm_unit", "images")
        again = _CORRECTIONS.get(key, "corrected") + citations.cite(key)
        text += (
            f" Confirmed means: on images not used to select it, {_CONFIRMED_BY[unit]} with "
            f"{again} over {known.get('n_confirm_tests', 0):,} detectors gave p ≤ "
            f"{known['confirm_alpha']}."
        )
        if unit != "images":
            text += (
                " Images of one group are not independent: the selection, which takes them for "
                "independent, only screens; tests and intervals of the confirmation take the "
                "group as their unit."
            )
    return text


def _localisation(results: Results, citations: Citations) -> str:
    table = words.scores(results)
    if table is None or results.localisation is None:
        return ""
    known = results.localisation.parameters
    kind = f" of kind {results.box_kind}" if results.box_kind else ""
    count = known.get("n_threshold_images")
    chosen = (
        f"chosen on {words.plural(count, 'image')} outside the test set"
        if count
        else "fixed without the test images"
    )
    bare = known.get("classes_without_detectors", [])
    silent = (
        f" For {words.plural(len(bare), 'class', 'classes')} without a detector the detector "
        "methods count as IoU 0."
        if bare
        else ""
    )
    shown = set(table["method"])
    maps = [
        f"{text}{citations.cite(key)}"
        for key, text in (
            ("cam", "class activation maps of the logistic head"),
            ("ddt", "the first principal component of a class's cells"),
        )
        if key in shown
    ]
    n, boxed = int(table["n"].max()), results.boxed_test_images
    some = f" of a random {n:,} of the {boxed:,} test images with a box" if boxed > n else ""
    among = f" Among them are {' and '.join(maps)}." if maps else ""
    return (
        f"Heat maps{some} were computed from the stored maps alone.{among} They were thresholded "
        f"at a share of their range, with one threshold for all images{citations.cite('wsol')}, "
        f"{chosen}. The predicted box encloses the largest region above it and is compared with "
        f"the best ground-truth box{kind}; box accuracy is the share of images with an "
        "intersection over union (IoU) of at least 0.5, the class being known. The pointing game "
        f"asks whether the peak lies in a box{citations.cite('pointing')}. Intervals are 95 % "
        f"intervals over images.{silent} The oracle column uses the threshold that is best on the "
        "test images themselves, as much of the literature does; it flatters."
    )


def _glance(results: Results, citations: Citations) -> str:
    if results.glance is None:
        return ""
    plane = results.glance.overview.embedding
    laid_out, n = len(plane), plane.parameters["n"]
    some = "" if laid_out == n else f" of a random {laid_out:,} of the {n:,} images"
    return (
        f"The plane of the set is t-SNE{citations.cite('tsne')} of the principal components of the "
        f"pooled activations{some}; it shows neighbours, not distances between far groups."
    )


def _gradients(results: Results, citations: Citations) -> str:
    if results.gradients is None:
        return ""
    return (
        f"Guided back-propagation{citations.cite('guided')} and the selection of units by "
        f"activation times gradient (DAM){citations.cite('dam')} ran the network again, as did "
        f"Grad-CAM and its kin{citations.cite('grad_cam')}. Whether they mean the trained network "
        f"was checked by making its layers random, one after the other{citations.cite('sanity')}."
    )


def _software(provenance: dict[str, object], citations: Citations) -> str:
    versions = [
        f"{key.removeprefix('version_')} {value}"
        for key, value in sorted(provenance.items())
        if key.startswith("version_") and value != "not installed"
    ]
    own = provenance.get("featlab_version")
    listed = ([f"featlab {own}"] if own else []) + versions
    if not listed:
        return ""
    return (
        f"Software: {', '.join(listed)}; statistics by SciPy{citations.cite('scipy')} and "
        f"statsmodels{citations.cite('statsmodels')}."
    )
