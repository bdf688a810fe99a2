"""1. Run the network once: an image folder becomes a store of feature maps.

    python analysis/01_extract.py [IMAGES] [STORE] [CLASS,CLASS,...]

Without arguments: the built-in scenes, all classes, and reports/analysis/maps.h5.
"""

import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from featlab import backbones, datasets, extract, images, plots

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else datasets.write_scenes("data/scenes")
path = Path(sys.argv[2] if len(sys.argv) > 2 else "reports/analysis/maps.h5")
path.parent.mkdir(parents=True, exist_ok=True)

classes = sys.argv[3].split(",") if len(sys.argv) > 3 else None
table, boxes, _ = images.index_images(folder, classes=classes)
print(table.groupby("label").size().to_string())
print(f"{len(boxes)} boxes")

# %%
backbone = backbones.load_backbone("efficientnet_lite0")
progress = partial(tqdm, desc="extract", unit="img", unit_scale=32)
store = extract.extract_maps(table, backbone, path, boxes=boxes, progress=progress)
store.verify()
print(store)
print(store.provenance["description"])

# %%
# Some of the pictures, with their true boxes:
rows = store.images.sample(12, random_state=0).index
labels = store.images["label"].iloc[rows].tolist()
pictures = [images.decode_picture((store.root / path).read_bytes()) for path in table["path"][rows]]
corners = [
    store.boxes.loc[store.boxes["image"] == row, ["xmin", "ymin", "xmax", "ymax"]].to_numpy()
    for row in rows
]
store.close()
figure = plots.sample_pictures(pictures, labels, corners)
figure.savefig(path.with_name("samples.png"), dpi=120)
print(path.with_name("samples.png"))
