"""6. Through the network again: DAM, the Grad-CAM family, guided maps, and whether they mean it.

python analysis/06_gradients.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]
"""

import arguments

from featlab import plots
from featlab.backbones import load_backbone
from featlab.pipeline import analyse_gradients
from featlab.store import MapStore

given = arguments.read(arguments.parser(__doc__), network=True)
folder = given.folder / "gradients"

with MapStore(given.store) as store:
    backbone = load_backbone(store.provenance["backbone"])
    results = analyse_gradients(store, backbone, box_kind=given.box_kind, n_images=30)
results.save(folder)

columns = ["box_accuracy", "mean_iou", "centre_in_box", "picture_centre_in_box"]
table = results.localisation.set_index("method")
print(table[[*columns, "seconds_per_image"]].round(3).to_string())

# %%
print("rank correlation with the trained network's gradients, weights shuffled from the top:")
print(results.sanity.pivot_table(index="stage", columns="rule", values="spearman").round(2))

# %%
# DAM step by step on one picture, for each of its presets:
for k, example in enumerate(results.dam):
    figure = plots.dam_steps(example.trace, example.true_boxes)
    figure.savefig(folder / f"dam_{example.preset}_{k}.png", dpi=120)
print(folder)
