"""What a page is made of: sections, their prose, tables and figures, and the literature; a page."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from featlab.errors import FeatlabError
from featlab.plots.style import encode, themed

if TYPE_CHECKING:
    from matplotlib import axes, figure

MAX_ROWS = 40
_PLAIN = " =:/;,+()*!~$@?"  # what an address keeps in an attribute
_PICTURE_DPI = 110
_DPI = 150
_PIXELS_PER_INCH = 96
_MARK = re.compile(r" \[@([^]]*)\]")


@dataclass(frozen=True)
class Options:
    """How a page is drawn.

    Attributes
    ----------
    most_examples : int
        Most images shown with heat maps in each figure; 0 for none.
    random_state : int
        Seed of the dots drawn in the distributions.
    """

    most_examples: int = 6
    random_state: int = 0


@dataclass(frozen=True)
class Figure:
    """A figure with its words, drawn when its bytes are asked for.

    Attributes
    ----------
    draw : callable
        Makes an Axes or a matplotlib Figure.
    alt : str
        For those who cannot see it.
    caption : str
    file : str
        Name of its file, without suffix.
    pictures : bool
        Whether it is made of photographs, which the page holds as JPEG inside the drawing.
    """

    draw: Callable[[], axes.Axes | figure.Figure]
    alt: str
    caption: str
    file: str
    pictures: bool = False

    @property
    def uri(self) -> str:
        """The figure as the page holds it."""
        return self._drawn[0]

    @property
    def width(self) -> int:
        """CSS pixels."""
        return self._drawn[1]

    @property
    def dpi(self) -> int:
        """Pixels per inch of what is not drawn as lines."""
        return _PICTURE_DPI if self.pictures else _DPI

    @cached_property
    def _drawn(self) -> tuple[str, int]:
        drawing = self.draw()
        drawn = themed(encode(drawing, "svg", dpi=self.dpi), photographs=self.pictures)
        whole: Any = getattr(drawing, "figure", drawing)
        # Letter by letter it is shorter than in base64.
        uri = f"data:image/svg+xml,{quote(drawn, safe=_PLAIN)}"
        return uri, round(whole.get_figwidth() * _PIXELS_PER_INCH)


@dataclass(frozen=True)
class Table:
    """A table on the page; the first column heads its row, `text` columns are left-aligned."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    text: Sequence[int] = (0,)
    left_out: int = 0
    file: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page, complete without its figures being drawn yet.

    Attributes
    ----------
    id : str
        Its anchor.
    title : str
    partial : str
        File in ``templates/sections`` that holds its prose.
    facts : mapping
        What the prose fills in: words, numbers, flags.
    tables : mapping of str to Table or None
        None for those that these results do not allow; so with the figures.
    figures : mapping of str to Figure, list of Figure or None
    files : mapping of str to DataFrame
        The full tables, which lie beside the page.
    link : str
        The title in the contents, where it is shorter.
    """

    id: str
    title: str
    partial: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Table | None] = field(default_factory=dict)
    figures: Mapping[str, Figure | list[Figure] | None] = field(default_factory=dict)
    files: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    link: str = ""

    def drawn(self) -> list[Figure]:
        """Every figure that there is."""
        every: list[Figure] = []
        for entry in self.figures.values():
            every += entry if isinstance(entry, list) else [entry] if entry is not None else []
        return every


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    text: Sequence[int] = (0,),
    *,
    total: int | None = None,
    file: str = "",
) -> Table | None:
    """The first rows as a table; None without rows. `total` counts rows already left out."""
    if not rows:
        return None
    total = len(rows) if total is None else total
    first = rows[:MAX_ROWS]
    return Table(caption, columns, first, text, total - len(first), file)


def rows_per_class(n_classes: int) -> int:
    """Rows per class of a table that has a block for each class."""
    most = 10 if n_classes <= 4 else 3
    return max(1, min(most, MAX_ROWS // max(n_classes, 1)))


@dataclass(frozen=True)
class Page:
    """A page on the disk, which a notebook shows in a frame.

    Attributes
    ----------
    path : Path
    height : int
        Of the frame, in pixels.
    """

    path: Path
    height: int = 800

    def _repr_html_(self) -> str:
        # Its own policy still holds inside; the sandbox keeps its script from the notebook.
        return (
            f'<iframe title="{escape(self.path.name)}" sandbox="allow-scripts" '
            f'srcdoc="{escape(self.path.read_text("utf-8"))}" '
            f'style="width:100%;height:{self.height}px;border:1px solid #8888"></iframe>'
        )


def show(path: str | os.PathLike[str], *, height: int = 800) -> Page:
    """Show a report or comparison in a notebook.

    The whole page becomes part of the notebook's output, up to 10 MB; without a notebook, open
    the file in a browser.

    Parameters
    ----------
    path : path-like
        What ``write_report`` or ``write_comparison`` returned.
    height : int
        Of the frame, in pixels.

    Returns
    -------
    Page

    Raises
    ------
    FeatlabError
        There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FeatlabError(f"path must be a page that was written, got {path}; there is none.")
    return Page(path, height)


# ---------------------------------------------------------------------------------- the literature


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

    def numbered(self, text: str) -> str:
        """The text with numbers for the marks of `cite`, in the order of their mention."""
        return _MARK.sub(lambda mark: self.cite(*mark[1].split(", ")), text)

    @property
    def cited(self) -> list[Reference]:
        """The works in the order of their numbers."""
        return [REFERENCES[key] for key in self.keys]


def cite(*keys: str) -> str:
    """A mark that becomes the numbers of these works."""
    return f" [@{', '.join(keys)}]"


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
    "bayesian_bootstrap": Reference(
        "Rubin (1981). The Bayesian bootstrap. Annals of Statistics 9, 130-134."
    ),
    "gaffke": Reference(
        "Gaffke (2005). Three test statistics for a nonparametric one-sided hypothesis on the mean "
        "of a nonnegative variable. Mathematical Methods of Statistics 14, 451-467."
    ),
    "clopper": Reference(
        "Clopper & Pearson (1934). The use of confidence or fiducial limits illustrated in the "
        "case of the binomial. Biometrika 26, 404-413."
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
    "selected_intervals": Reference(
        "Benjamini & Yekutieli (2005). False discovery rate-adjusted multiple confidence intervals "
        "for selected parameters. Journal of the American Statistical Association 100, 71-81.",
        doi="10.1198/016214504000001907",
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
