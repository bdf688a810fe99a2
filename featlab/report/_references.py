"""The literature that the methods name, numbered in the order in which a page cites it."""

from __future__ import annotations

from dataclasses import dataclass, field


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
