"""From stored maps to boxes by regression; the network is never run.

`evaluate_box_heads` fits classical heads and scores them on test images beside baselines;
`predict_boxes` applies the best of them, the cascade, to other images;
`fit_joint_head` trains class and box together, as a Keras head on the stored maps;
`box_statistics` describes the boxes themselves.
"""

from featlab.boxheads._evaluation import evaluate_box_heads, predict_boxes
from featlab.boxheads._inputs import box_statistics
from featlab.boxheads._joint import fit_joint_head

__all__ = ["box_statistics", "evaluate_box_heads", "fit_joint_head", "predict_boxes"]
