"""The set on a plane: PCA and t-SNE of the features, nearest neighbours, how the classes lie.

`embed_images` lays the images on a plane; `nearest_neighbours` names those most like an image;
`overview` is both, with where the misclassified images lie and numbers on what the plane shows, in
the original space. All of it describes; nothing here is a test.
"""

from featlab.embed._neighbours import nearest_neighbours, overview
from featlab.embed.planes import embed_images

__all__ = ["embed_images", "nearest_neighbours", "overview"]
