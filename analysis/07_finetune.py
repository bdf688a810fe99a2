"""7. Does training the network itself gain anything over heads on its stored maps?

python analysis/07_finetune.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]
"""

import arguments

from featlab import backbones, extract, finetune, pipeline, plots, splits
from featlab.store import MapStore

given = arguments.read(arguments.parser(__doc__), network=True)
folder = given.folder / "transfer"

backbone = backbones.load_backbone("efficientnet_lite0")
with MapStore(given.store) as store:
    images = store.images
    split = splits.make_split(images, random_state=0)
    fits = {
        name: finetune.fit_finetuned(images, split, backbone, blocks=blocks, folder=folder / name)
        for name, blocks in (("frozen", 0), ("thawed", 2))
    }
    file = folder / "thawed.keras"
    if not file.exists():
        fits["thawed"].save(file)
    tuned = backbones.load_backbone(file)
    with extract.extract_maps(images, tuned, folder / "maps_thawed.h5", boxes=store.boxes) as after:
        transfer = pipeline.transfer_study(store, split, fits, after)
transfer.save(folder)

columns = ["name", "n", "accuracy", "accuracy_low", "accuracy_high", "difference", "p", "seconds"]
print(transfer.comparison[columns].round(3).to_string())
print(transfer.detectors.round(3).to_string())

# %%
figure = plots.transfer_curves(transfer.curves)
figure.savefig(folder / "curves.svg")
print(folder / "curves.svg")

# %%
figure = plots.detector_changes(transfer.neurons).figure
figure.savefig(folder / "detectors.svg")
print(folder / "detectors.svg")
