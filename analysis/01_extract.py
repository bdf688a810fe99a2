"""1. Run the network once: an image folder becomes a store of feature maps.

    python analysis/01_extract.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]

IMAGES is a folder of class folders, or what else `featlab run` takes; without it the built-in
scenes. All scripts take the same arguments and write into the same FOLDER, of which this one leaves
the store: by default reports/analysis, and reports/NAME for IMAGES of that name.
"""

import arguments

from featlab import backbones, datasets, extract, images, plots

given = arguments.read(arguments.parser(__doc__), network=True)
pictures = given.images or datasets.write_scenes("data/scenes")
table, boxes, _ = images.index_images(pictures, classes=given.classes)
print(table.groupby("label").size().to_string())
print(f"{len(boxes)} boxes")

# %%
backbone = backbones.load_backbone("efficientnet_lite0")
store = extract.extract_maps(table, backbone, given.store, boxes=boxes, progress=arguments.counted)
store.verify()
print(store)
print(store.provenance["description"])

# %%
# Some of the pictures, with their true boxes:
rows = store.images.sample(12, random_state=0).index
labels = store.images["label"].iloc[rows].tolist()
pictures = [images.decode_picture((store.root / path).read_bytes()) for path in table["path"][rows]]
kinds = [given.box_kind] if given.box_kind else store.boxes["kind"].unique()
true = store.boxes[store.boxes["kind"].isin(kinds)]
corners = [
    true.loc[true["image"] == row, ["xmin", "ymin", "xmax", "ymax"]].to_numpy() for row in rows
]
store.close()
figure = plots.sample_pictures(pictures, labels, corners)
figure.savefig(given.folder / "samples.png", dpi=120)
print(given.folder / "samples.png")
