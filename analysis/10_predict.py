"""10. Any picture: what is it, where is it, who says so, and how far may that be trusted?

    python analysis/10_predict.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]
        [--foreign FOLDER]

What was fitted on the store becomes a file; the file is read again and asked about the pictures of
the test images, as if nobody had labelled them, and about foreign ones, which it should call
unusual: those of a folder, or noise and plain colours.
"""

from pathlib import Path

import arguments
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle
from PIL import Image
from sklearn.metrics import roc_auc_score

from featlab import images, localise, pipeline, predict
from featlab.store import MapStore

parser = arguments.parser(__doc__)
parser.add_argument("--foreign", type=Path, help="pictures of something else")
given = arguments.read(parser, network=True)
folder = given.folder / "predict"

with MapStore(given.store) as store:
    results = pipeline.analyse(store, box_kind=given.box_kind, random_state=0)
    predict.fit_predictor(results).save(folder / "model.featlab")
    tested = store.images[(results.split == "test").to_numpy()]
    files = [(store.root / path).resolve() for path in tested["path"]]
    labels = dict(zip(files, tested["label"], strict=True))

predictor = predict.load_predictor(folder / "model.featlab")
print(f"{', '.join(predictor.classes)}; boxes from {predictor.box_method}")

# %%
if given.foreign is None:
    given.foreign = folder / "foreign"
    given.foreign.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(30):
        noise = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
        plain = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), noise.shape)
        Image.fromarray(noise).save(given.foreign / f"noise_{i:02}.png")
        Image.fromarray(np.ascontiguousarray(plain)).save(given.foreign / f"plain_{i:02}.png")

asked = {"own": list(labels), "foreign": given.foreign}
tables = {}
for name, pictures in asked.items():
    tables[name] = predictor.predict(pictures, folder=folder / name, keep_maps=True)
    tables[name].to_csv(folder / f"{name}.csv", index=False)
    predict.write_boxes(tables[name], folder / name, "coco", classes=predictor.classes)
    columns = ["path", "class", "probability", "set", "typicality", "box_score", "detectors"]
    columns += ["xmin", "ymin", "xmax", "ymax", "own_class"]
    print(f"{name}: {len(tables[name])} pictures")
    print(tables[name][columns].head(6).round(2).to_string(index=False))

# %%
# The promises, on pictures that nothing was fitted on. The sets should hold nine classes in ten;
# of pictures like the train set one in twenty at most should have a typicality of 0.05 or less.
own, foreign = tables["own"], tables["foreign"]
stores = {name: MapStore(folder / name / predict.MAPS) for name in tables}
truth = [labels[(stores["own"].root / path).resolve()] for path in own["path"]]
inside = [label in answer.split("|") for label, answer in zip(truth, own["set"], strict=True)]
typicality = pd.concat([own["typicality"], foreign["typicality"]])
kind = np.repeat([1, 0], [len(own), len(foreign)])
promises = {
    "accuracy": (own["class"] == truth).mean(),
    "coverage, 0.9 promised": np.mean(inside),
    "classes in a set": own["set"].str.split("|", regex=False).str.len().mean(),
    "own pictures called unusual": (own["typicality"] <= 0.05).mean(),
    "foreign pictures called unusual": (foreign["typicality"] <= 0.05).mean(),
    "AUROC of typicality, own against foreign": roc_auc_score(kind, typicality),
}
print(pd.Series(promises).round(3).to_string())

# %%
figure = plt.figure(figsize=(7.2, 6), layout="constrained")
grid = figure.add_gridspec(3, 4, height_ratios=[1, 1, 0.8])
for line, (name, table) in enumerate(tables.items()):
    maps = stores[name]
    rows = np.linspace(0, len(table) - 1, 4).round().astype(int)
    codes = np.searchsorted(predictor.classes, table["class"].to_numpy(str)[rows])
    heats = localise.heat_maps(maps, rows, predictor.heat.fitted, codes=codes)
    for column, (row, heat) in enumerate(zip(rows, heats[predictor.heat.method], strict=True)):
        said, frame = table.iloc[row], np.asarray(maps.frames)[row]
        fine = localise.heat_on_picture(heat, frame, said[["width", "height"]].to_numpy(int))
        panel = figure.add_subplot(grid[line, column])
        panel.imshow(images.decode_picture((maps.root / said["path"]).read_bytes()))
        panel.imshow(fine, cmap="inferno", alpha=0.45)
        xmin, ymin, xmax, ymax = said[["xmin", "ymin", "xmax", "ymax"]].to_numpy(float)
        box = (xmin, ymin), xmax - xmin, ymax - ymin
        panel.add_patch(Rectangle(*box, fill=False, edgecolor="black", linewidth=3.5))
        panel.add_patch(Rectangle(*box, fill=False, edgecolor="#56b4e9", linewidth=2))
        words = f"{said['class']} {said['probability']:.2f}\ntypicality {said['typicality']:.3f}"
        panel.set_title(words, fontsize=8)
        panel.set_xticks([])
        panel.set_yticks([])
        if column == 0:
            panel.set_ylabel(name, fontsize=9)
    maps.close()
panel = figure.add_subplot(grid[2, :])
bins, weights = np.linspace(0, 1, 21), [np.full(len(one), 1 / len(one)) for one in (own, foreign)]
panel.hist(
    [own["typicality"], foreign["typicality"]],
    bins=bins, weights=weights, label=["own", "foreign"], color=["#0072b2", "#d55e00"],
)  # fmt: skip
panel.axhline(1 / 20, color="black", linewidth=0.8, linestyle=":", label="expected of own")
panel.set_xlabel("typicality (conformal p-value)")
panel.set_ylabel("share of pictures")
panel.spines[["top", "right"]].set_visible(False)
panel.legend(frameon=False, fontsize=8)
figure.savefig(folder / "predict.svg", bbox_inches="tight")
plt.close(figure)
print(folder / "predict.svg")
