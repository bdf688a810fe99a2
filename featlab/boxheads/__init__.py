"""From stored maps to boxes by regression; the network is never run.

`evaluate_box_heads` fits classical heads and scores them on test images beside baselines;
`train_joint_head` trains class and box together, as a Keras head on the stored maps;
`published_protocol` repeats a published recipe as it was and as it should be;
`box_statistics` describes the boxes themselves.
"""

from __future__ import annotations

from featlab.boxheads._evaluation import BASELINES, HEADS, HEADS_DEFAULT, evaluate_box_heads
from featlab.boxheads._joint import train_joint_head
from featlab.boxheads._protocol import breed_names, honest_split, published_protocol
from featlab.boxheads._statistics import box_statistics
from featlab.boxheads._targets import POLICIES, TARGETS

__all__ = [
    "BASELINES",
    "HEADS",
    "HEADS_DEFAULT",
    "POLICIES",
    "TARGETS",
    "JointHead",
    "box_statistics",
    "breed_names",
    "evaluate_box_heads",
    "honest_split",
    "published_protocol",
    "train_joint_head",
]
