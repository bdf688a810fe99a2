"""11. One Keras model for class and box: trained on the store, saved, and asked about a picture.

    python analysis/11_joint_model.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]

The saved file is the whole network; Keras alone opens it. Beside it: the two-step heads, fitted on
the same images and scored on the same. Where an image has several boxes, the joint head is scored
on the largest, the others on the one that fits best.
"""

import arguments
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from featlab import backbones, boxheads, features, heads, images, splits
from featlab.arguments import true_boxes
from featlab.boxes import geometry
from featlab.images.pixels import resize_picture
from featlab.store import MapStore

given = arguments.read(arguments.parser(__doc__), network=True)
file = given.folder / "joint.keras"

with MapStore(given.store) as store:
    table, frames, folder = store.images, np.asarray(store.frames), store.root
    mode = store.provenance["resize"]
    sizes = table[["width", "height"]].to_numpy(float)
    split = splits.make_split(table, random_state=0)
    # The largest box of each image; a row without one stays NaN.
    boxes = true_boxes(table, store.boxes, given.box_kind)
    area = (boxes["xmax"] - boxes["xmin"]) * (boxes["ymax"] - boxes["ymin"])
    boxes = boxes.assign(area=area)
    largest = boxes.sort_values("area").drop_duplicates("image", keep="last").set_index("image")
    pixels = largest[geometry.CORNERS].reindex(table.index).to_numpy(float)
    known = np.isfinite(pixels).all(axis=1)
    truth = np.full((len(table), 4), np.nan)
    truth[known] = geometry.picture_to_frame(pixels[known], frames[known], sizes[known])
    backbone = backbones.rebuild_backbone(store.provenance)
    joint = boxheads.fit_joint_head(store, table["label"], truth, split, head="spatial")
    two_step = boxheads.evaluate_box_heads(
        store, split, box_kind=given.box_kind, heads=["ridge_pca", "cascade"]
    )
    X = features.feature_table(store)
classes = heads.evaluate_heads(X, table["label"], split, groups=table["group"], heads=["logistic"])
boxheads.save_joint_model(joint, backbone, file)
print(f"{file}, {file.stat().st_size / 1e6:.1f} MB; trained on {joint.n_train} images")

# %%
# From here on Keras alone, on pictures of the test images as files.
import keras  # noqa: E402 (TensorFlow is silent by now)

model = keras.models.load_model(file)
_, height, width, _ = model.input_shape
rows = joint.predictions["row"].to_numpy()[:: max(1, len(joint.predictions) // 6)][:6]
pictures = [images.decode_picture((folder / table["path"][row]).read_bytes()) for row in rows]
inputs = np.stack([resize_picture(one, (height, width), mode) for one in pictures])
said = model.predict(inputs.astype("float32"), verbose=0)
drawn = geometry.frame_to_picture(said["box"], frames[rows], sizes[rows])

figure, panels = plt.subplots(2, 3, figsize=(7.2, 5.4), layout="constrained")
for panel, picture, row, box, share in zip(
    panels.flat, pictures, rows, drawn, said["label"], strict=False
):
    panel.imshow(picture)
    for (xmin, ymin, xmax, ymax), colour in ((pixels[row], "white"), (box, "#56b4e9")):
        place = (xmin, ymin), xmax - xmin, ymax - ymin
        panel.add_patch(Rectangle(*place, fill=False, edgecolor="black", linewidth=3.5))
        panel.add_patch(Rectangle(*place, fill=False, edgecolor=colour, linewidth=2))
    words = f"{joint.classes[share.argmax()]} {share.max():.2f} (is {table['label'][row]})"
    panel.set_title(words, fontsize=9)
for panel in panels.flat:
    panel.set_axis_off()
figure.suptitle("true box white, predicted box blue", fontsize=9)
figure.savefig(given.folder / "joint.png", dpi=120)
plt.close(figure)
print(given.folder / "joint.png")

# %%
# The same test images; a two-step head is logistic regression for the class and a box head.
logistic = classes.table.set_index("head").loc["logistic"]
iou = joint.predictions["iou"]
lines = [("joint head", joint.accuracy, (iou >= 0.5).mean(), joint.mean_iou, joint.n)]
for line in two_step.table.itertuples():
    name = f"{line.head} (baseline)" if line.baseline else f"logistic + {line.head}"
    accuracy = np.nan if line.baseline else logistic["accuracy"]
    lines.append((name, accuracy, line.box_accuracy, line.mean_iou, line.n))
columns = ["model", "accuracy", "box_accuracy", "mean_iou", "n"]
scores = pd.DataFrame(lines, columns=columns)
scores.to_csv(given.folder / "joint.csv", index=False)
print(scores.round(3).to_string(index=False))
