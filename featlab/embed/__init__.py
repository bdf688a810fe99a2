"""The set at a glance: PCA and t-SNE of the features, nearest neighbours, how the classes lie.

`embed_images` lays the images on a plane; `nearest_neighbours` names those most like an image;
`misclassified` says where the images lie that a head gets wrong; `class_separation` puts numbers on
what the plane shows, in the original space. All of it describes; nothing here is a test.
"""

from __future__ import annotations

from featlab.embed._neighbours import class_separation, misclassified, nearest_neighbours
from featlab.embed._overview import overview
from featlab.embed._planes import LEAST_IMAGES, embed_images

__all__ = [
    "LEAST_IMAGES",
    "class_separation",
    "embed_images",
    "misclassified",
    "nearest_neighbours",
    "overview",
]
