"""9. Are finer maps better? Several stores of the same images, side by side.

    python analysis/09_compare.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]
        [--with STORE ...]

The store of the first script beside those given or, without any, one whose maps are twice as fine.
"""

import sys
from pathlib import Path

import arguments

from featlab import backbones, extract, images, pipeline, plots, report
from featlab.store import MapStore

parser = arguments.parser(__doc__)
parser.add_argument("--with", dest="others", nargs="+", type=Path, metavar="STORE")
given = arguments.read(parser, network=True)
if not given.others:
    given.others = [given.folder / "maps_fine.h5"]
    table, boxes, _ = images.index_images(given.images or "data/scenes", classes=given.classes)
    fine = backbones.load_backbone("efficientnet_lite0", output_stride=16)
    progress = arguments.counted
    extract.extract_maps(table, fine, given.others[0], boxes=boxes, progress=progress).close()

stores = [MapStore(path) for path in (given.store, *given.others)]
command = " ".join(["python", *sys.argv])
comparison = pipeline.compare_stores(
    stores, box_kind=given.box_kind, random_state=0, command=command
)
for store in stores:
    store.close()
columns = ["name", "accuracy", "confirmed", "auroc_confirmed", "method", "box_accuracy", "mean_iou"]
print(comparison.entries[columns].round(3).to_string(index=False))
print("auroc_confirmed: of the confirmed detector that led at selection; this flatters it")
print("boxes found on the same test images, the best on confirm − each of the others:")
columns = ["a", "b", "difference", "difference_low", "difference_high", "p_adjusted"]
print(comparison.box_pairs.reindex(columns=columns).round(3).to_string(index=False))

# %%
page = report.write_comparison(comparison, given.folder / "compare.html")
figure = plots.detector_aurocs(comparison.detectors, comparison.entries["name"].tolist()).figure
figure.savefig(page.with_name("compare_detectors.svg"))
print(page)
