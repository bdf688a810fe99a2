"""Stored maps → heat maps → boxes, and how good they are; no network is touched.

:mod:`methods` says what each heat map is made of, :mod:`fitting` what is learnt for it on train
images, :mod:`heat` combines neurons to heat maps, :mod:`regions` finds the box in a heat map,
:mod:`matching` compares boxes with the true ones and corrects them, :mod:`scores` and
:mod:`evaluation` score methods beside baselines, :mod:`detectors` judges single neurons.
"""

import lazy_loader

# The names are listed once, in the stub beside this file; each loads its module when it is asked
# for: to box a heat map needs no scikit-learn.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
