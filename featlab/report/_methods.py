"""The methods paragraphs, written from the provenance and the parameters of the tables."""

from __future__ import annotations

import pandas as pd

from featlab.report import _words as words
from featlab.report._grids import shown_value
from featlab.report._results import Results

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
_CONFIRMED_BY = {
    "images": "a one-sided Mann-Whitney test",
    "whole groups": "a one-sided t-test of the groups' mean ranks",
    "images within groups": "a one-sided Wilcoxon test stratified by group",
}


def methods(results: Results) -> list[str]:
    """Paragraphs of plain text: network, split, heads, detectors, localisation, software."""
    paragraphs = [
        _network(results),
        _split(results),
        _heads(results.heads.table),
        _detectors(results.neurons),
        _localisation(results),
        _software(results.store.provenance),
    ]
    return [paragraph for paragraph in paragraphs if paragraph]


def _network(results: Results) -> str:
    known = {key: shown_value(value) for key, value in results.store.provenance.items()}
    h, w, c = results.store.map_shape()
    resize = {
        "stretch": "stretched to the input's shape",
        "pad": "fitted into the input with padding",
    }.get(known.get("resize", ""), known.get("resize", "resized"))
    sha = known.get("weights_sha256", "")
    parts = [
        f"Feature maps were computed once with {known.get('backbone', 'a frozen network')}",
        f", weights {known['weights']}" if "weights" in known else "",
        f" (SHA-256 {sha[:12]}…)" if sha else "",
        f", input {known['input_size']} pixels" if "input_size" in known else "",
        f", preprocessing {known['preprocessing']}" if "preprocessing" in known else "",
        f"; pictures were {resize}. Layers stored: {', '.join(results.store.layers)}; the last "
        f"gives {h} × {w} cells of {c:,} neurons. The network was not trained further.",
    ]
    return "".join(parts)


def _split(results: Results) -> str:
    counts = pd.Series(list(results.split)).value_counts()
    sizes = ", ".join(f"{counts.get(side, 0):,} {side}" for side in ("train", "confirm", "test"))
    return (
        f"The images were split into {sizes}. Everything was fitted and selected on train, "
        "detectors were judged and thresholds chosen on confirm, and scores were measured on test."
    )


def _heads(table: pd.DataFrame) -> str:
    settings = "; ".join(
        f"{words.readable(row['head'])}: {row['parameters']}"
        for _, row in table.iterrows()
        if str(row["parameters"]).strip() not in ("", "nan", "None")
    )
    boot = table.attrs.get("n_boot")
    return "".join(
        [
            "Heads were fitted on train images, with tuning by cross-validation inside train",
            f" ({settings})" if settings else "",
            f"; intervals are 95 % bootstrap intervals ({boot:,} draws)" if boot else "",
            ".",
        ]
    )


def _detectors(table: pd.DataFrame) -> str:
    known = table.attrs
    if "test" not in known:
        return ""
    test = _TESTS.get(known["test"], known["test"])
    correction = _CORRECTIONS.get(known.get("correction", ""), known.get("correction", "none"))
    family = known.get("n_tests", int(table["p"].notna().sum()))
    dead = int(table["p"].isna().sum())
    text = (
        f"Each neuron's pooled activation in a class was compared with all other images by {test}, "
        f"corrected by {correction} over one family of {family:,} tests (all layers, poolings, "
        f"classes and neurons; {words.plural(dead, 'constant one', 'constant ones')} left out). "
        f"A neuron was selected as a detector with an adjusted p ≤ {known.get('alpha')} and an "
        f"AUROC of at least {known.get('min_auroc')} (or, as a silent one, at most 1 minus that)."
    )
    if "confirm_alpha" in known:
        again = _CORRECTIONS.get(known.get("confirm_correction", ""), "corrected")
        unit = known.get("confirm_unit", "images")
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


def _localisation(results: Results) -> str:
    table = words.scores(results)
    if table is None:
        return ""
    known = table.attrs
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
    return (
        "Heat maps were thresholded at a share of their range, with one threshold for all images, "
        f"{chosen}. The predicted box encloses the largest region above it and is compared with "
        f"the best ground-truth box{kind}; box accuracy is the share of images with an "
        "intersection over union (IoU) of at least 0.5, the class being known. Intervals are 95 % "
        f"intervals over images.{silent} The oracle column uses the threshold that is best on the "
        "test images themselves, as much of the literature does; it flatters."
    )


def _software(provenance: dict[str, object]) -> str:
    versions = [
        f"{key.removeprefix('version_')} {value}"
        for key, value in sorted(provenance.items())
        if key.startswith("version_") and value != "not installed"
    ]
    own = provenance.get("featlab_version")
    listed = ([f"featlab {own}"] if own else []) + versions
    return f"Software: {', '.join(listed)}." if listed else ""
