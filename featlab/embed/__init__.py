"""The set on a plane: PCA and t-SNE of the features, nearest neighbours, how the classes lie.

`nearest_neighbours` names the images most like an image, `representatives` a few that stand for
all; `overview` lays the images on a plane and
tells where the misclassified ones lie, with numbers on what the plane shows, in the original space.
`likeness` compares how several networks see the same images. The others describe; only its p is of
a test.
"""

from featlab.embed._likeness import likeness
from featlab.embed._neighbours import nearest_neighbours, overview, representatives

__all__ = ["likeness", "nearest_neighbours", "overview", "representatives"]
