"""The section "Methods": paragraphs from provenance and parameters, and the literature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from featlab.arguments import SIDES
from featlab.report import _words as words
from featlab.report._elements import Options, Section
from featlab.report._localisation import scored
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
_NETWORKS = ("efficientnet", "mobilenetv2", "resnet", "vgg")
_CONFIRMED_BY = {
    "images": "a one-sided Mann-Whitney test",
    "whole groups": "a one-sided t-test of the groups' mean ranks",
    "images within groups": "a one-sided Wilcoxon test stratified by group",
}


@dataclass(frozen=True)
class Reference:
    """Who, when, what and where; `doi` or `arxiv` where there is one."""

    text: str
    doi: str = ""
    arxiv: str = ""

    @property
    def label(self) -> str:
        """How the link is read: ``doi:10.1214/…``, ``arXiv:1412.6806`` or nothing."""
        if self.doi:
            return f"doi:{self.doi}"
        return f"arXiv:{self.arxiv}" if self.arxiv else ""

    @property
    def url(self) -> str:
        """Where the link leads; it is followed only by whoever clicks it."""
        if self.doi:
            return f"https://doi.org/{self.doi}"
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


@dataclass
class Citations:
    """Counts what is cited; the first mention gives a work its number."""

    keys: list[str] = field(default_factory=list)

    def cite(self, *keys: str) -> str:
        """``" [1, 4]"``, with the space before it; empty for works that are not known."""
        known = [key for key in keys if key in REFERENCES]
        self.keys += [key for key in dict.fromkeys(known) if key not in self.keys]
        numbers = sorted(self.keys.index(key) + 1 for key in known)
        return f" [{', '.join(str(number) for number in numbers)}]" if numbers else ""

    @property
    def cited(self) -> list[Reference]:
        """The works in the order of their numbers."""
        return [REFERENCES[key] for key in self.keys]


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
        _network(results, citations),
        _split(results, citations),
        _heads(results, citations),
        _detectors(results, citations),
        _localisation(results, citations),
        _set_overview(results, citations),
        _gradients(results, citations),
        _software(results.store.provenance, citations),
    ]
    return [paragraph for paragraph in paragraphs if paragraph], citations.cited


def _network(results: Results, citations: Citations) -> str:
    known = {key: words.provenance(value) for key, value in results.store.provenance.items()}
    h, w, c = results.store.map_shape()
    resize = {
        "stretch": "stretched to the input's shape",
        "pad": "fitted into the input with padding",
    }.get(known.get("resize", ""), known.get("resize", "resized"))
    name, weights, sha = (known.get(key, "") for key in ("backbone", "weights", "weights_sha256"))
    works = [work for work in _NETWORKS if name.lower().startswith(work)]
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
    counts = results.split.value_counts()
    sizes = ", ".join(f"{counts.get(side, 0):,} {side}" for side in SIDES)
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


def _detectors(results: Results, citations: Citations) -> str:
    known, dead = results.selection, int(results.neurons["p"].isna().sum())
    test = _TESTS.get(known.test, known.test) + citations.cite(known.test)
    corrected = _CORRECTIONS.get(known.correction, known.correction)
    corrected += citations.cite(known.correction)
    text = (
        f"Each neuron's pooled activation in a class was compared with all other images by {test}, "
        f"corrected by {corrected} over one family of {known.n_tests:,} tests (all layers, "
        f"poolings, classes and neurons; {words.plural(dead, 'constant one', 'constant ones')} "
        f"left out). A neuron was selected as a detector with an adjusted p ≤ {known.alpha} and an "
        f"AUROC of at least {known.min_auroc} (or, as a silent one, at most 1 minus that). "
        f"Intervals of the AUROC are DeLong's{citations.cite('delong')}, and score intervals where "
        f"a class is separated perfectly{citations.cite('newcombe')}."
    )
    again = _CORRECTIONS.get(known.confirm_correction, "corrected")
    again += citations.cite(known.confirm_correction)
    text += (
        f" Confirmed means: on images not used to select it, {_CONFIRMED_BY[known.unit]} with "
        f"{again} over {known.n_confirm_tests:,} detectors gave p ≤ {known.confirm_alpha}."
    )
    if known.unit != "images":
        text += (
            " Images of one group are not independent: the selection, which takes them for "
            "independent, only screens; tests and intervals of the confirmation take the "
            "group as their unit."
        )
    return text


def _localisation(results: Results, citations: Citations) -> str:
    scores = scored(results)
    if scores is None:
        return ""
    table, known = scores.table, scores.parameters
    kind = f" of kind {results.box_kind}" if results.box_kind else ""
    count = known.get("n_threshold_images")
    threshold = (
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
    methods = set(table["method"])
    silent += "".join(
        f" No heat maps of {words.method(name)}: {why}."
        for name, why in known.get("left_out", {}).items()
    )
    maps = [
        f"{text}{citations.cite(key)}"
        for key, text in (
            ("cam", "class activation maps of the logistic head"),
            ("ddt", "the first principal component of a class's cells"),
        )
        if key in methods
    ]
    n, boxed = int(table["n"].max()), results.boxed_test_images
    some = f" of a random {n:,} of the {boxed:,} test images with a box" if boxed > n else ""
    among = f" Among them are {' and '.join(maps)}." if maps else ""
    return (
        f"Heat maps{some} were computed from the stored maps alone.{among} They were thresholded "
        f"at a share of their range, with one threshold for all images{citations.cite('wsol')}, "
        f"{threshold}. The predicted box encloses the largest region above it and is compared with "
        f"the best ground-truth box{kind}; box accuracy is the share of images with an "
        "intersection over union (IoU) of at least 0.5, the class being known. The pointing game "
        f"asks whether the peak lies in a box{citations.cite('pointing')}. Intervals are 95 % "
        f"intervals over images.{silent} The oracle column uses the threshold that is best on the "
        "test images themselves, as much of the literature does; it flatters."
    )


def _set_overview(results: Results, citations: Citations) -> str:
    if results.set_overview is None:
        return ""
    plane = results.set_overview.overview.embedding
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


def _software(provenance: Mapping[str, Any], citations: Citations) -> str:
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


REFERENCES = {
    "efficientnet": Reference(
        "Tan & Le (2019). EfficientNet: rethinking model scaling for convolutional neural "
        "networks. ICML.",
        arxiv="1905.11946",
    ),
    "mobilenetv2": Reference(
        "Sandler et al. (2018). MobileNetV2: inverted residuals and linear bottlenecks. CVPR.",
        doi="10.1109/CVPR.2018.00474",
    ),
    "resnet": Reference(
        "He et al. (2016). Deep residual learning for image recognition. CVPR.",
        doi="10.1109/CVPR.2016.90",
    ),
    "vgg": Reference(
        "Simonyan & Zisserman (2015). Very deep convolutional networks for large-scale image "
        "recognition. ICLR.",
        arxiv="1409.1556",
    ),
    "imagenet": Reference(
        "Russakovsky et al. (2015). ImageNet large scale visual recognition challenge. "
        "International Journal of Computer Vision 115, 211-252.",
        doi="10.1007/s11263-015-0816-y",
    ),
    "double_dipping": Reference(
        "Kriegeskorte et al. (2009). Circular analysis in systems neuroscience: the dangers of "
        "double dipping. Nature Neuroscience 12, 535-540.",
        doi="10.1038/nn.2303",
    ),
    "bootstrap": Reference("Efron & Tibshirani (1993). An introduction to the bootstrap."),
    "clustered_bootstrap": Reference(
        "Field & Welsh (2007). Bootstrapping clustered data. Journal of the Royal Statistical "
        "Society B 69, 369-390.",
        doi="10.1111/j.1467-9868.2007.00593.x",
    ),
    "wilson": Reference(
        "Wilson (1927). Probable inference, the law of succession, and statistical inference. "
        "Journal of the American Statistical Association 22, 209-212.",
        doi="10.1080/01621459.1927.10502953",
    ),
    "mcnemar": Reference(
        "McNemar (1947). Note on the sampling error of the difference between correlated "
        "proportions or percentages. Psychometrika 12, 153-157.",
        doi="10.1007/BF02295996",
    ),
    "mannwhitneyu": Reference(
        "Mann & Whitney (1947). On a test of whether one of two random variables is "
        "stochastically larger than the other. Annals of Mathematical Statistics 18, 50-60.",
        doi="10.1214/aoms/1177730491",
    ),
    "welch": Reference(
        "Welch (1947). The generalization of 'Student's' problem when several different "
        "population variances are involved. Biometrika 34, 28-35.",
        doi="10.1093/biomet/34.1-2.28",
    ),
    "brunner_munzel": Reference(
        "Brunner & Munzel (2000). The nonparametric Behrens-Fisher problem: asymptotic theory and "
        "a small-sample approximation. Biometrical Journal 42, 17-25."
    ),
    "delong": Reference(
        "DeLong et al. (1988). Comparing the areas under two or more correlated receiver operating "
        "characteristic curves: a nonparametric approach. Biometrics 44, 837-845.",
        doi="10.2307/2531595",
    ),
    "newcombe": Reference(
        "Newcombe (2006). Confidence intervals for an effect size measure based on the "
        "Mann-Whitney statistic, part 2. Statistics in Medicine 25, 559-573.",
        doi="10.1002/sim.2324",
    ),
    "fdr_bh": Reference(
        "Benjamini & Hochberg (1995). Controlling the false discovery rate: a practical and "
        "powerful approach to multiple testing. Journal of the Royal Statistical Society B 57, "
        "289-300.",
        doi="10.1111/j.2517-6161.1995.tb02031.x",
    ),
    "fdr_by": Reference(
        "Benjamini & Yekutieli (2001). The control of the false discovery rate in multiple testing "
        "under dependency. Annals of Statistics 29, 1165-1188.",
        doi="10.1214/aos/1013699998",
    ),
    "holm": Reference(
        "Holm (1979). A simple sequentially rejective multiple test procedure. Scandinavian "
        "Journal of Statistics 6, 65-70."
    ),
    "local_fdr": Reference(
        "Efron (2004). Large-scale simultaneous hypothesis testing: the choice of a null "
        "hypothesis. Journal of the American Statistical Association 99, 96-104.",
        doi="10.1198/016214504000000089",
    ),
    "max_t": Reference("Westfall & Young (1993). Resampling-based multiple testing."),
    "cam": Reference(
        "Zhou et al. (2016). Learning deep features for discriminative localization. CVPR.",
        doi="10.1109/CVPR.2016.319",
    ),
    "ddt": Reference(
        "Wei et al. (2019). Unsupervised object discovery and co-localization by deep descriptor "
        "transformation. Pattern Recognition 88, 113-126.",
        doi="10.1016/j.patcog.2018.10.022",
    ),
    "wsol": Reference(
        "Choe et al. (2020). Evaluating weakly supervised object localization methods right. CVPR.",
        doi="10.1109/CVPR42600.2020.00320",
    ),
    "pointing": Reference(
        "Zhang et al. (2018). Top-down neural attention by excitation backprop. International "
        "Journal of Computer Vision 126, 1084-1102.",
        doi="10.1007/s11263-017-1059-x",
    ),
    "dissection": Reference(
        "Bau et al. (2017). Network dissection: quantifying interpretability of deep visual "
        "representations. CVPR.",
        doi="10.1109/CVPR.2017.354",
    ),
    "tsne": Reference(
        "van der Maaten & Hinton (2008). Visualizing data using t-SNE. Journal of Machine Learning "
        "Research 9, 2579-2605."
    ),
    "guided": Reference(
        "Springenberg et al. (2015). Striving for simplicity: the all convolutional net. ICLR.",
        arxiv="1412.6806",
    ),
    "dam": Reference(
        "Dwaraknath, Menghani & Mongia (2016). Fast unsupervised object localization. Stanford "
        "University, CS231n."
    ),
    "grad_cam": Reference(
        "Selvaraju et al. (2017). Grad-CAM: visual explanations from deep networks via "
        "gradient-based localization. ICCV.",
        doi="10.1109/ICCV.2017.74",
    ),
    "sanity": Reference(
        "Adebayo et al. (2018). Sanity checks for saliency maps. NeurIPS.", arxiv="1810.03292"
    ),
    "scikit-learn": Reference(
        "Pedregosa et al. (2011). Scikit-learn: machine learning in Python. Journal of Machine "
        "Learning Research 12, 2825-2830."
    ),
    "scipy": Reference(
        "Virtanen et al. (2020). SciPy 1.0: fundamental algorithms for scientific computing in "
        "Python. Nature Methods 17, 261-272.",
        doi="10.1038/s41592-019-0686-2",
    ),
    "statsmodels": Reference(
        "Seabold & Perktold (2010). Statsmodels: econometric and statistical modeling with Python. "
        "SciPy conference.",
        doi="10.25080/Majora-92bf1922-011",
    ),
}
