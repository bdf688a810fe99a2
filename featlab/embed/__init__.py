"""The set at a glance: PCA and t-SNE of the features, nearest neighbours, how the classes lie.

`embed_images` lays the images on a plane; `nearest_neighbours` names those most like an image;
`misclassified` says where the images lie that a head gets wrong; `class_separation` puts numbers on
what the plane shows, in the original space; `overview` is all of these. All of it describes;
nothing here is a test.
"""

from featlab.embed._neighbours import (
    class_separation,
    misclassified,
    nearest_neighbours,
    overview,
)
from featlab.embed.planes import embed_images

__all__ = [
    "class_separation",
    "embed_images",
    "misclassified",
    "nearest_neighbours",
    "overview",
]
