"""Pictures on disk → image table and box table; bytes → pixels; pixels → the network's input.

Every picture is decoded once while it is indexed, so that a broken file is found before the
network is run and not in the middle of the night.
"""

from featlab.images._index import index_images
from featlab.images._pictures import index_pictures
from featlab.images.decode import decode_image

__all__ = ["decode_image", "index_images", "index_pictures"]
