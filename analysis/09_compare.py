"""9. Are finer maps better? Several stores of the same images, side by side.

    python analysis/09_compare.py [STORE ...]

Without arguments: the store of the first script beside one whose maps are twice as fine.
"""

import sys
from pathlib import Path

from featlab import backbones, extract, images, pipeline, plots, report
from featlab.store import MapStore

paths = [Path(argument) for argument in sys.argv[1:]]
if not paths:
    folder = Path("reports/analysis")
    table, boxes, _ = images.index_images("data/scenes")
    paths = [folder / "maps.h5", folder / "maps_fine.h5"]
    fine = backbones.load_backbone("efficientnet_lite0", output_stride=16)
    extract.extract_maps(table, fine, paths[1], boxes=boxes).close()

stores = [MapStore(path) for path in paths]
comparison = pipeline.compare_stores(
    stores, random_state=0, command=" ".join(["python", *sys.argv])
)
for store in stores:
    store.close()
columns = ["name", "accuracy", "confirmed", "auroc_confirmed", "method", "box_accuracy", "mean_iou"]
print(comparison.entries[columns].round(3).to_string(index=False))
print("auroc_confirmed: of the confirmed detector that led at selection; this flatters it")
print("boxes found on the same test images, the best on confirm less the others:")
columns = ["a", "b", "difference", "difference_low", "difference_high", "p_adjusted"]
print(comparison.box_pairs[columns].round(3).to_string(index=False))

# %%
page = report.write_comparison(comparison, paths[0].parent / "compare.html")
figure = plots.detector_aurocs(comparison.detectors, comparison.entries["name"].tolist()).figure
figure.savefig(page.with_name("compare_detectors.svg"))
print(page)
