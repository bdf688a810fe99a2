"""Classifiers on the features, tuned inside train and scored once on test.

`evaluate_heads` on a split, `cross_validate_heads` where images are few. Then `compare_heads` and
`compare_backbones`: is one better than another; `per_class` and `calibration`: where is it
wrong, and does it know; `learning_curve`: how many images does it need; `ablation_curve` and
`smallest_set`: which neurons. `NeuronSelector` chooses neurons inside a fold. `save_head` writes
arrays, `load_head` reads them: no pickles.
"""

import lazy_loader

# The names are listed once, in the stub beside this file; each loads its module when it is asked
# for: to ask a saved head needs no scikit-learn.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
