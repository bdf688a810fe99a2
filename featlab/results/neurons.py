"""How the detectors of a neuron table were selected and confirmed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """How the detectors of a neuron table were selected and confirmed.

    The defaults are those of ``neurons.rank_neurons`` and ``neurons.confirm_neurons``.

    Attributes
    ----------
    test, correction : str
        Of the selection.
    alpha : float
        Largest corrected p of a detector.
    min_auroc : float
        Smallest AUROC of an active detector; of a silent one, 1 minus the largest.
    n_tests : int
        Size of the corrected family: all rows of the table that have a p.
    confirm_correction : str
        Of the confirmation.
    confirm_alpha : float
        Largest corrected p of a confirmed detector.
    n_confirm_tests : int
        Size of its family.
    unit : str
        Unit of evidence of the confirmation: "images", "whole groups" or "images within groups".
    """

    test: str = "mannwhitneyu"
    correction: str = "fdr_bh"
    alpha: float = 0.05
    min_auroc: float = 0.7
    n_tests: int = 0
    confirm_correction: str = "holm"
    confirm_alpha: float = 0.05
    n_confirm_tests: int = 0
    unit: str = "images"
