"""Moved to `_rank_statistics` and `_tests`; to be removed before the commit."""

from featlab.neurons._rank_statistics import (  # noqa: F401
    Floats,
    auroc_interval,
    rank_statistics,
)
from featlab.neurons._tests import mannwhitney_p  # noqa: F401
