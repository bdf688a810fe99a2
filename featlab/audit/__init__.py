"""Is this image set fit for the question?

Duplicates and leaks, label errors, outliers, classes that colour or framing alone tells apart, and
whether detector neurons survive when such things are held fixed. Every check ends in one line with
pass, warn or fail; every finding names its images. The network is not run.

Pictures that are there several times (`duplicates`) are a group of their own in the store that
`group_copies` gives: then neither a split nor a test takes them for independent images.
"""

from featlab.audit._labels import label_errors
from featlab.audit.copies import duplicates, group_copies
from featlab.audit.sets import audit_set

__all__ = [
    "audit_set",
    "duplicates",
    "group_copies",
    "label_errors",
]
