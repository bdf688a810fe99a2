"""The section "Methods": paragraphs from provenance and parameters, and the literature."""

from __future__ import annotations

import pandas as pd

from featlab.arguments import SIDES
from featlab.report import _words as words
from featlab.report._answers import scored, thresholds
from featlab.report._elements import Citations, Options, Reference, Section, Table, cite, table
from featlab.report._words import claim
from featlab.results.analysis import Results

_PROVENANCE_FIRST = (
    "backbone",
    "weights",
    "input_size",
    "preprocessing",
    "resize",
    "layers",
    "output_stride",
    "dtype",
    "engine",
    "precision",
    "fingerprint",
)
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
_NETWORKS = ("efficientnet", "mobilenetv2", "resnet", "vgg")
_CONFIRMED_BY = {
    "images": "a one-sided Mann-Whitney test",
    "whole groups": "a one-sided Mann-Whitney test of as many images of each group",
    "too few groups": "no test, since a class has fewer than five groups, so none",
    "images within groups": "a one-sided Wilcoxon test stratified by group",
}


def methods(results: Results, options: Options) -> Section:
    """What was done, with the literature in the order of its numbers."""
    paragraphs, references = described(results)
    return Section(
        "methods",
        "Methods",
        "methods.html",
        facts={"paragraphs": paragraphs, "references": references},
    )


def described(results: Results) -> tuple[list[str], list[Reference]]:
    """Plain text with numbers of the literature in brackets, and the literature."""
    citations = Citations()
    paragraphs = [
        " ".join(str(one) for one in (make(results) for make in claims) if one)
        for claims in _PARAGRAPHS
    ]
    return [citations.numbered(text) for text in paragraphs if text], citations.cited


@claim("network used")
def _network(results: Results) -> str:
    known = {key: words.provenance(value) for key, value in results.store.provenance.items()}
    h, w, c = results.store.map_shape()
    resize = {
        "stretch": "stretched to the input's shape",
        "pad": "fitted into the input with padding",
    }.get(known.get("resize", ""), known.get("resize", "resized"))
    name, weights, sha = (known.get(key, "") for key in ("backbone", "weights", "weights_sha256"))
    works = [work for work in _NETWORKS if name.lower().startswith(work)]
    trained = cite("imagenet") if weights.lower() == "imagenet" else ""
    parts = [
        f"Feature maps were computed once with {name or 'a frozen network'}",
        cite(*works) if works else "",
        f", weights {weights}{trained}" if weights else "",
        f" (SHA-256 {sha[:12]}…)" if sha else "",
        f", input {known['input_size']} pixels" if "input_size" in known else "",
        f", preprocessing {known['preprocessing']}" if "preprocessing" in known else "",
        f"; pictures were {resize}. Layers stored: {', '.join(results.store.layers)}; the last "
        f"gives {h} × {w} cells of {c:,} neurons.",
    ]
    return "".join(parts)


@claim("not trained further")
def _frozen(results: Results) -> str:
    if results.transfer is not None:
        return "A copy of it was trained further for the section “Transfer” alone."
    return "The network was not trained further."


@claim("split")
def _split(results: Results) -> str:
    counts = results.split.value_counts()
    sizes = ", ".join(f"{counts.get(side, 0):,} {side}" for side in SIDES)
    return f"The images were split into {sizes}{_groups(results)}."


def _groups(results: Results) -> str:
    """Whether the groups that a person named lie on one side, as the rows have it."""
    groups = results.store.tables.images["group"].astype(str)
    named = groups.ne("").to_numpy()
    if not named.any():
        return ""
    sides = results.split.reset_index(drop=True)[named].groupby(groups.to_numpy()[named]).nunique()
    if (sides == 1).all():
        return ", whole groups on one side"
    return f"; {int((sides > 1).sum()):,} of {words.plural(len(sides), 'group')} lie on two sides"


@claim("copies")
def _copies(results: Results) -> str:
    """What became of the copies of pictures: left out, on one side, or on several."""
    left_out = words.indexed(results.store.provenance).get("copies", 0)
    text = f"{words.plural(left_out, 'image')} left out as copies. " if left_out else ""
    pairs = None if results.audit is None else results.audit.duplicates
    if pairs is None or not len(pairs):
        return text.strip()
    n = words.plural(len(pairs), "pair")
    torn, are = int(pairs["across"].sum()), "is" if len(pairs) == 1 else "are"
    how = "images like all others" if results.copies == "split" else "a group of their own"
    where = f"{torn:,} on two sides" if torn else "none on two sides"
    return f"{text}The copies of a picture ({n}) {are} {how}, {where}."


@claim("fitted on")
def _fitted(results: Results) -> str:
    """What was learnt and chosen on which side."""
    heads = None if results.box_details is None else results.box_details.heads
    text = thresholds(results)
    parts = [
        "Heads were fitted and detectors selected on train",
        "detectors were judged on confirm",
        *([str(text).replace("thresholds", "thresholds of heat maps were", 1)] if text else []),
        *(["box heads were fitted on train and confirm"] if heads is not None else []),
    ]
    return (
        f"{'; '.join(parts)}; scores were measured on test: what is chosen and judged on the same "
        f"images is flattered{cite('double_dipping')}."
    )


@claim("heads fitted")
def _heads(results: Results) -> str:
    table = results.heads.table
    settings = "; ".join(
        f"{words.readable(row['head'])}: {row['parameters']}"
        for _, row in table.iterrows()
        if str(row["parameters"]).strip() not in ("", "nan", "None")
    )
    tuned = ", with tuning by cross-validation inside train" if "fold" in settings else ""
    return (
        f"Heads{cite('scikit-learn')} were fitted on train images{tuned}"
        f"{f' ({settings})' if settings else ''}."
    )


@claim("intervals of heads")
def _intervals(results: Results) -> str:
    """How the intervals of the heads came about, as their column says."""
    kinds = results.heads.table.get("interval", pd.Series(dtype=str)).astype(str)
    unit = "images"
    if kinds.str.contains(r"over \d+ groups").any():
        unit = "whole groups of images"
    if kinds.str.startswith("over").any():
        return (
            f"Their 95 % intervals weight {unit} of the test side at random, with one unseen among "
            f"them that is wrong for the lower limit and right for the upper"
            f"{cite('bayesian_bootstrap')}{cite('gaffke')}; for shares of single images that is "
            f"the exact binomial interval{cite('clopper')}. Those of the AUROC are score "
            f"intervals{cite('newcombe')}; the log-loss has none."
        )
    if kinds.str.startswith("none").any():
        return "They have no intervals: all test images are of one group."
    return ""


@claim("paired tests")
def _paired(results: Results) -> str:
    """By which tests two heads, or two ways to find boxes, were compared."""
    details, boxes = results.head_details, results.box_details
    compared = {
        "heads": pd.DataFrame() if details is None else details.pairs,
        "boxes": pd.DataFrame() if boxes is None else boxes.pairs,
    }
    tests = {
        what: pairs["test"].astype(str)
        for what, pairs in compared.items()
        if "test" in pairs and pairs["test"].astype(bool).any()
    }
    if not tests:
        return ""
    every = pd.concat(tests.values())
    named = [
        text
        for test, text in (
            ("McNemar", f"McNemar's test{cite('mcnemar')}"),
            ("sign flips", "sign flips of whole groups"),
        )
        if every.str.contains(test).any()
    ]
    what = " and ".join({"heads": "Heads", "boxes": "found boxes"}[name] for name in tests)
    return (
        f"{what[0].upper()}{what[1:]} were compared on the same images by {' or '.join(named)}, "
        f"corrected by Holm{cite('holm')}."
    )


@claim("selection")
def _selected(results: Results) -> str:
    known, dead = results.selection, int(results.every_neuron["p"].isna().sum())
    test = _TESTS.get(known.test, known.test) + cite(known.test)
    corrected = _CORRECTIONS.get(known.correction, known.correction) + cite(known.correction)
    return (
        f"Each neuron's pooled activation in a class was compared with all other images by {test}, "
        f"corrected by {corrected} over one family of {known.n_tests:,} tests (all layers, "
        f"poolings, classes and neurons; {words.plural(dead, 'pair')} without a p "
        f"left out). A neuron was selected as a detector with an adjusted p ≤ {known.alpha} and an "
        f"AUROC of at least {known.min_auroc} (or, as a silent one, at most 1 minus that). "
        f"Intervals of the AUROC are score intervals{cite('newcombe')}, widened where the "
        f"empirical variance{cite('delong')} is larger."
    )


@claim("confirmation")
def _held(results: Results) -> str:
    known = results.selection
    if known.unit == "too few groups":
        return (
            "Nothing was confirmed: a class has too few groups for a test that takes the group as "
            "its unit."
        )
    again = _CORRECTIONS.get(known.confirm_correction, "corrected")
    text = (
        f"Confirmed means: on images not used to select it, {_CONFIRMED_BY[known.unit]} with "
        f"{again}{cite(known.confirm_correction)} over "
        f"{words.plural(known.n_confirm_tests, 'test')} of selected neurons (of all layers and "
        f"poolings) gave p ≤ {known.confirm_alpha}."
    )
    if results.neurons["auroc_adjusted_low"].notna().any():
        text += (
            " The interval beside a confirmed detector's AUROC on those images allows for its "
            f"having been picked there{cite('selected_intervals')}."
        )
    if known.unit != "images":
        text += (
            " Images of one group are not independent: the selection, which takes them for "
            "independent, only screens; p-values and intervals take the group as their unit."
        )
    return text


@claim("heat maps")
def _heat_maps(results: Results) -> str:
    scores = scored(results)
    if scores is None:
        return ""
    kind = f" of kind {results.box_kind}" if results.box_kind else ""
    methods = set(scores.table["method"])
    maps = [
        f"{text}{cite(key)}"
        for key, text in (
            ("cam", "class activation maps of the logistic head"),
            ("ddt", "the first principal component of a class's cells"),
        )
        if key in methods
    ]
    n, boxed = int(scores.table["n"].max()), results.boxed_test_images
    some = f" of a random {n:,} of the {boxed:,} test images with a box" if boxed > n else ""
    among = f" Among them are {' and '.join(maps)}." if maps else ""
    step = scores.parameters.get("threshold_step", 0.01)
    protocol = ", the protocol's" if step == 0.001 else " (the protocol's are 0.001)"
    return (
        f"Heat maps{some} were computed from the stored maps alone.{among} They were thresholded "
        f"at a share of their range, in steps of {step:g}{protocol}, with one "
        f"threshold for all images{cite('wsol')}. The predicted box encloses the largest region "
        f"above it and is compared with the best ground-truth box{kind}; box accuracy is the share "
        "of images with an intersection over union (IoU) of at least 0.5, the class being known. "
        f"The pointing game asks whether the peak lies in a box{cite('pointing')}."
    )


@claim("intervals of boxes")
def _box_intervals(results: Results) -> str:
    scores = scored(results)
    if scores is None or scores.table["box_accuracy_low"].isna().all():
        return ""
    n, units = int(scores.table["n"].max()), scores.parameters.get("n_groups")
    over = "images" if units in (None, n) else f"{words.plural(int(units), 'group')} of images"
    return f"Intervals are 95 % intervals over {over}."


@claim("classes without detectors")
def _bare(results: Results) -> str:
    scores = scored(results)
    bare = [] if scores is None else scores.parameters.get("classes_without_detectors", [])
    if not bare:
        return ""
    return (
        f"For {words.plural(len(bare), 'class', 'classes')} without a detector the detector "
        "methods count as IoU 0."
    )


@claim("methods left out")
def _left_out(results: Results) -> str:
    scores = scored(results)
    reasons = {} if scores is None else scores.parameters.get("left_out", {})
    return " ".join(f"No heat maps of {words.method(k)}: {why}." for k, why in reasons.items())


@claim("plane described")
def _set_overview(results: Results) -> str:
    if results.set_overview is None:
        return ""
    plane = results.set_overview.overview.embedding
    laid_out, n = len(plane), plane.parameters["n"]
    some = "" if laid_out == n else f" of a random {laid_out:,} of the {n:,} images"
    return (
        f"The plane of the set is t-SNE{cite('tsne')} of the principal components of the "
        f"pooled activations{some}; it shows neighbours, not distances between far groups."
    )


@claim("gradients described")
def _gradients(results: Results) -> str:
    if results.gradients is None:
        return ""
    guided = (
        ""
        if results.gradients.facts.get("guided_refused")
        else f"Guided back-propagation{cite('guided')}, the selection of units by activation "
        f"times gradient (DAM){cite('dam')} and "
    )
    return (
        f"{guided}Grad-CAM and its kin{cite('grad_cam')} ran the network again. Whether gradients "
        "mean the trained network was checked by making its layers random, one after the "
        f"other{cite('sanity')}."
    )


@claim("software")
def _software(results: Results) -> str:
    known = results.store.provenance
    versions = [
        f"{key.removeprefix('version_')} {value}"
        for key, value in sorted(known.items())
        if key.startswith("version_") and value != "not installed"
    ]
    own = known.get("featlab_version")
    listed = ([f"featlab {own}"] if own else []) + versions
    if not listed:
        return ""
    return (
        f"Software: {', '.join(listed)}; statistics by SciPy{cite('scipy')} and "
        f"statsmodels{cite('statsmodels')}."
    )


_PARAGRAPHS = (
    (_network, _frozen),
    (_split, _copies, _fitted),
    (_heads, _intervals, _paired),
    (_selected, _held),
    (_heat_maps, _box_intervals, _bare, _left_out),
    (_set_overview,),
    (_gradients,),
    (_software,),
)
"""The claims of each paragraph."""


def provenance_table(results: Results, *, essentials: bool) -> Table | None:
    """What the store says of how it was made: what matters most, or all of it."""
    known = {
        key: words.provenance(value)
        for key, value in results.store.provenance.items()
        if isinstance(value, (str, int, float))
    }
    first = [key for key in _PROVENANCE_FIRST if key in known]
    # The command stands above the table.
    rest = [] if essentials else sorted(set(known) - set(first) - {"command", "reading"})
    rows = [[words.readable(key), known[key]] for key in first + rest]
    caption = "The network and its input" if essentials else "Provenance of the stored maps"
    return table(caption, ["What", "Value"], rows, (0, 1))
