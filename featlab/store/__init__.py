"""The HDF5 store of feature maps: written once, read many times.

The layout is described in ``docs/file-format.md``. A *part* (one finished range of rows, written
during the pass) has the same groups as a store, without the tables; parts are joined to a store
by copying their compressed chunks, or a virtual store refers to them. Written by
:mod:`featlab.extract` alone.
"""

from featlab.store._reading import MapStore
from featlab.store._reading import MemoryStore as MemoryStore

__all__ = ["MapStore"]
