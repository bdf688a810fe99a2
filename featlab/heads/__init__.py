"""Classifiers on the features, tuned inside train and scored once on test."""

from __future__ import annotations

from featlab.heads._evaluation import HEADS, HeadResults, evaluate_heads
from featlab.heads._models import linear_weights
from featlab.heads._scores import METRICS

__all__ = ["HEADS", "METRICS", "HeadResults", "evaluate_heads", "linear_weights"]
