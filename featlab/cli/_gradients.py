"""The command that runs the network again on purpose: gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featlab.cli import _network
from featlab.cli._options import BoxKind, Output, Seed, Store
from featlab.cli._progress import quiet_bar
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    from featlab.backbones import Backbone
    from featlab.results.gradients import GradientResults

_OWN_STRIDE = "network's own"
_LOCALISATION = [
    *("n", "threshold", "box_accuracy", "box_accuracy_low", "box_accuracy_high", "mean_iou"),
    *("mean_iou_low", "mean_iou_high", "max_box_acc", "centre_in_box", "picture_centre_in_box"),
    "seconds_per_image",
]


def gradients(
    store: Store,
    output: Output,
    images: Annotated[
        int, typer.Option(min=1, help="Test images scored; more set the thresholds.")
    ] = 60,
    backbone: Annotated[
        str | None,
        typer.Option(help="A network or .keras file. (default: the one the store names)"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="imagenet, none or a weights file. (default: those the store names)"),
    ] = None,
    box_kind: BoxKind = None,
    seed: Seed = 0,
) -> None:
    """Run the network again on some images: DAM, Grad-CAM, guided maps and their checks."""
    from featlab.pipeline import analyse_gradients, save_gradients
    from featlab.store import MapStore

    with MapStore(store) as opened:
        with _network.libraries_silenced():
            network = rebuilt(opened.provenance, backbone, weights)
            network.input_size, network.layers  # noqa: B018 - builds what the name does not tell
        results = analyse_gradients(
            opened,
            network,
            n_images=images,
            box_kind=box_kind,
            random_state=seed,
            progress=_image_bar,
        )
    save_gradients(results, output)
    for name, figure in figures(results).items():
        figure.savefig(output / f"{name}.png", dpi=150)
    tell(results, output)


def rebuilt(provenance: dict[str, Any], backbone: str | None, weights: str | None) -> Backbone:
    """The network that a store was made with, from what the store says of it.

    Raises
    ------
    FeatlabError
        The store's network came from a file, which has to be given.
    """
    from featlab.backbones import available_backbones, load_backbone

    name = backbone or str(provenance["backbone"])
    own = str(provenance["weights"])
    if Path(name).suffix in (".keras", ".h5", ".hdf5"):
        scaling = str(provenance["preprocessing"]).partition(":")[0]
        return load_backbone(
            name,
            layers=json.loads(provenance["layers"]),
            output_stride=_stride(provenance),
            preprocessing=scaling,
        )
    if name not in available_backbones():
        raise FeatlabError(
            f"the store's network {name!r} came from a file ({own}); give it with --backbone."
        )
    if weights is None and own not in ("ImageNet", "random"):
        raise FeatlabError(
            f"the store's network {name} has weights of its own ({own}); give them with --weights."
        )
    chosen = weights or {"ImageNet": "imagenet", "random": "none"}[own]
    height, width = (int(side) for side in str(provenance["input_size"]).split(" x "))
    return load_backbone(
        name,
        weights=None if chosen.lower() == "none" else chosen,
        input_size=(height, width),
        layers=json.loads(provenance["layers"]),
        output_stride=_stride(provenance),
    )


def figures(results: GradientResults) -> dict[str, Any]:
    """Every figure, by the name of its file; works from loaded results too."""
    from featlab import plots

    drawn: dict[str, Any] = {
        f"dam_{example.preset}_{k}": plots.dam_steps(example.trace, example.true_boxes)
        for k, example in enumerate(results.dam)
    }
    examples = results.examples
    drawn["gradient_maps"] = plots.gradient_maps(
        examples.pictures, examples.maps, labels=examples.labels
    )
    drawn["grad_cam_family"] = plots.cam_strips(results.cams)
    drawn["randomisation"] = plots.randomisation_curves(results.sanity).figure
    drawn["faithfulness"] = plots.faithfulness_scores(results.faithfulness)
    return drawn


def tell(results: GradientResults, output: Path) -> None:
    """The tables in a few lines."""
    facts = results.facts
    if facts["guided_refused"]:
        print(f"no guided back-propagation and no DAM: {facts['guided_refused']}")
    else:
        print(f"{facts['n_patched']} rectifiers guided in {facts['backbone']}")
    table = results.localisation.set_index("method")[_LOCALISATION]
    print(table.to_string(float_format="{:.3f}".format))
    print("rank correlation with the trained network's map, weights shuffled down to …:")
    agreement = results.sanity.assign(
        down_to=results.sanity["down_to"].replace("", "(trained)")
    ).pivot_table(
        index=["stage", "down_to"], columns="rule", values=["spearman", "spearman_absolute"]
    )
    print(agreement.to_string(float_format="{:.3f}".format))
    print("faithfulness:")
    faith = results.faithfulness.set_index("method").drop(columns="baseline")
    print(faith.to_string(float_format="{:.3f}".format))
    print(f"tables, figures and examples: {output}")


def _image_bar(items: Any, *, label: str) -> Any:
    return quiet_bar(items, label=label, unit="item")


def _stride(provenance: dict[str, Any]) -> int | None:
    stride = str(provenance["output_stride"])
    return None if stride == _OWN_STRIDE else int(stride)
