"""A network, and what running it again adds to the stored maps; kept as plain tables and arrays."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError
from featlab.system.files import flush_names, write_table, write_whole

_GRADIENT_TABLES = ("localisation", "boxes", "sanity", "faithfulness", "faithfulness_curves")
GRADIENTS_FILE, _GRADIENTS_VERSION = "gradient_examples.npz", 2
_TRANSFER_TABLES = ("comparison", "curves", "predictions", "detectors", "neurons", "small_images")
TRANSFER_FILE, _TRANSFER_FORMAT = "transfer.json", ("featlab-transfer", "1.1")


@dataclass(frozen=True)
class Description:
    """What a reader wants to know of a backbone.

    Attributes
    ----------
    name, weights, preprocessing : str
    input_size : (int, int)
        Height and width in pixels.
    outputs : dict of str to str
        Layer → "7 x 7 cells of 32 px, 1280 neurons".
    parameters : int
        Number of weights up to the last layer given.
    """

    name: str
    weights: str
    input_size: tuple[int, int]
    outputs: dict[str, str]
    parameters: int
    preprocessing: str

    def __str__(self) -> str:
        height, width = self.input_size
        outputs = "; ".join(f"layer {layer}: {text}" for layer, text in self.outputs.items())
        return (
            f"{self.name} ({self.weights} weights, {self.parameters:,} parameters). Input: "
            f"{height} × {width} px RGB, {self.preprocessing}. Output: {outputs}."
        )


@dataclass(frozen=True)
class DamTrace:
    """Every intermediate of DAM for one picture.

    Attributes
    ----------
    pixels : ndarray of shape (H, W, 3), uint8
        The network's input.
    label : str
        The class whose evidence was sought: the one that the head predicts.
    map_shape : (int, int)
        Rows and columns of the layer's cells.
    units : ndarray of shape (k, 3), int
        Row, column and neuron, the highest score first.
    scores : ndarray of shape (k,)
        Activation times gradient of the class's logit.
    gradients : ndarray of shape (k, H, W)
        Guided gradient of each unit, one value per pixel.
    masks : ndarray of shape (k, H, W), bool
    losses : ndarray of shape (k,)
        Cross-entropy of the class when only the mask is shown; infinite where it is empty.
    kept : ndarray of shape (k,), bool
        The masks that were united.
    union : ndarray of shape (H, W), bool
    box_in_input : ndarray of shape (4,)
        In unit coordinates of the input; zeros where the union is empty.
    box : ndarray of shape (4,)
        Pixels of the original picture.
    """

    pixels: np.ndarray
    label: str
    map_shape: tuple[int, int]
    units: np.ndarray
    scores: np.ndarray
    gradients: np.ndarray
    masks: np.ndarray
    losses: np.ndarray
    kept: np.ndarray
    union: np.ndarray
    box_in_input: np.ndarray
    box: np.ndarray


@dataclass(frozen=True)
class DamExample:
    """Every step of DAM for one image.

    Attributes
    ----------
    preset, label : str
        The parameters' name, and the class that heat maps are asked for: the image's own, or what
        the network calls it.
    trace : DamTrace
    true_boxes : ndarray of shape (j, 4)
        Pixels of the network's input.
    """

    preset: str
    label: str
    trace: DamTrace
    true_boxes: np.ndarray


@dataclass(frozen=True)
class GradientExamples:
    """Gradients of the logit of the class in `labels` for a few images.

    Attributes
    ----------
    pictures : ndarray of shape (k, H, W, 3), uint8
        The network's input.
    labels : list of k str
    maps : dict of str to ndarray of shape (k, H, W, 3)
        "plain", "input" and, where the network has rectifiers, "guided".
    """

    pictures: np.ndarray
    labels: list[str]
    maps: dict[str, np.ndarray]


@dataclass(frozen=True)
class CamExamples:
    """Heat maps of the Grad-CAM family, and DAM's boxes, for a few images.

    Attributes
    ----------
    pictures : ndarray of shape (k, H, W, 3), uint8
    labels : list of k str
    true_boxes : list of k ndarrays of shape (j, 4)
        Pixels of the network's input.
    heats : dict of str to ndarray of shape (k, h, w)
    boxes : dict of str to ndarray of shape (k, 4)
        At the method's threshold, pixels of the network's input; DAM's have no heat map.
    """

    pictures: np.ndarray
    labels: list[str]
    true_boxes: list[np.ndarray]
    heats: dict[str, np.ndarray]
    boxes: dict[str, np.ndarray]

    def subset(self, some: slice) -> CamExamples:
        """Those of some of the images."""
        return CamExamples(
            self.pictures[some],
            self.labels[some],
            self.true_boxes[some],
            {name: values[some] for name, values in self.heats.items()},
            {name: values[some] for name, values in self.boxes.items()},
        )


@dataclass(frozen=True)
class GradientResults:
    """What the network itself adds to the stored maps.

    Attributes
    ----------
    localisation : DataFrame
        The table of :func:`featlab.localise.evaluate_localisation` for DAM, the Grad-CAM family,
        methods of the stored maps and baselines on the same images, with seconds_per_image (heat
        map or box, and its match with the true boxes; for stored maps without the pass that made
        them) and picture_centre_in_box (how often the picture's own centre lies in a box). No row
        where no image has a box.
    boxes : DataFrame
        A row for each image that was scored or shown and each method that ran the network: row,
        path, method, class_asked, probability (the head's, of that class), scored, xmin … ymax
        (pixels of the picture; zeros where no mask of DAM survived), threshold (none for DAM).
    sanity : DataFrame
        From :func:`featlab.gradients.randomisation_check`.
    faithfulness, faithfulness_curves : DataFrame
        From :func:`featlab.gradients.faithfulness`.
    dam : list of DamExample
        Empty where the network cannot be guided.
    examples : GradientExamples
    cams : CamExamples
    facts : dict
        Network, head, numbers and seconds; plain values.
    """

    localisation: pd.DataFrame
    boxes: pd.DataFrame
    sanity: pd.DataFrame
    faithfulness: pd.DataFrame
    faithfulness_curves: pd.DataFrame
    dam: list[DamExample]
    examples: GradientExamples
    cams: CamExamples
    facts: dict[str, Any]

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the tables (CSV and Parquet) and the examples (one ``.npz``, no pickles).

        Parameters
        ----------
        folder : path-like
            Made if it is not there.

        Returns
        -------
        list of Path
            The files written.
        """
        folder = Path(folder)
        tables = [
            write_table(getattr(self, name), folder / f"gradients_{name}{suffix}")
            for name in _GRADIENT_TABLES
            for suffix in (".csv", ".parquet")
        ]
        arrays = _arrays(self)
        write_whole(folder / GRADIENTS_FILE, lambda file: np.savez_compressed(file, **arrays))
        return [*tables, folder / GRADIENTS_FILE]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> GradientResults:
        """Read what `save` wrote; runs no network.

        Gradients and heat maps come back in half precision, each scaled to a largest value of
        1, which is what a figure needs.

        Raises
        ------
        FeatlabError
            A file is missing or of another version.
        """
        folder = Path(folder)
        try:
            with np.load(folder / GRADIENTS_FILE, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            facts = json.loads(str(arrays["facts"]))
            if facts.pop("version") != _GRADIENTS_VERSION:
                raise FeatlabError(
                    f"{folder} was written by another version of featlab; make it again."
                )
            tables = {
                name: pd.read_parquet(folder / f"gradients_{name}.parquet")
                for name in _GRADIENT_TABLES
            }
        except (OSError, ValueError, KeyError) as error:
            raise FeatlabError(
                f"{folder} holds no finished results of `featlab gradients`: {error}. Make them "
                "again."
            ) from error
        return cls(
            **tables,
            dam=[_dam_example(arrays, k) for k in range(facts.pop("n_dam"))],
            examples=GradientExamples(
                arrays["examples/pictures"],
                arrays["examples/labels"].tolist(),
                _below(arrays, "examples/maps/"),
            ),
            cams=CamExamples(
                arrays["cams/pictures"],
                arrays["cams/labels"].tolist(),
                [arrays[f"cams/true/{k}"] for k in range(len(arrays["cams/pictures"]))],
                _below(arrays, "cams/heats/"),
                _below(arrays, "cams/boxes/"),
            ),
            facts=facts,
        )


def _arrays(results: GradientResults) -> dict[str, Any]:
    facts = results.facts | {"version": _GRADIENTS_VERSION, "n_dam": len(results.dam)}
    arrays: dict[str, Any] = {"facts": np.array(json.dumps(facts))}
    for k, example in enumerate(results.dam):
        arrays[f"dam/{k}/preset"], arrays[f"dam/{k}/label"] = example.preset, example.label
        arrays[f"dam/{k}/true_boxes"] = example.true_boxes
        for name in (one.name for one in fields(DamTrace)):
            arrays[f"dam/{k}/trace/{name}"] = _small(getattr(example.trace, name))
    arrays["examples/pictures"] = results.examples.pictures
    arrays["examples/labels"] = np.array(results.examples.labels)
    arrays["cams/pictures"] = results.cams.pictures
    arrays["cams/labels"] = np.array(results.cams.labels)
    for k, true in enumerate(results.cams.true_boxes):
        arrays[f"cams/true/{k}"] = true
    for place, values in (
        ("examples/maps", results.examples.maps),
        ("cams/heats", results.cams.heats),
        ("cams/boxes", results.cams.boxes),
    ):
        for name, array in values.items():
            arrays[f"{place}/{name}"] = _small(array)
    return arrays


def _dam_example(arrays: dict[str, np.ndarray], k: int) -> DamExample:
    trace = _below(arrays, f"dam/{k}/trace/")
    trace["label"] = str(trace["label"])
    trace["map_shape"] = tuple(int(side) for side in trace["map_shape"])
    return DamExample(
        str(arrays[f"dam/{k}/preset"]),
        str(arrays[f"dam/{k}/label"]),
        DamTrace(**trace),
        arrays[f"dam/{k}/true_boxes"],
    )


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}


def _small(values: Any) -> np.ndarray:
    """Float32 pictures scaled to their largest value, in half precision; the rest as it is."""
    array = np.asarray(values)
    if array.dtype != np.float32 or array.ndim < 3:
        return array
    top = np.abs(array).max(initial=0)
    return (array / top if top > 0 else array).astype(np.float16)


@dataclass(frozen=True)
class Transfer:
    """What a transfer study found; no network is needed to show it.

    Attributes
    ----------
    comparison, predictions : DataFrame
        Scores of each network and head, and what each said of each test image.
    curves : DataFrame
        ``name`` and the columns of ``FineTuned.curves``.
    detectors, neurons : DataFrame or None
        What became of the detectors, by class and by neuron.
    small_images : DataFrame or None
        Accuracy from small copies of the pictures (``pipeline.transfer.small_images_table``).
    about : dict of str to object
        Backbone, parameters, versions; what JSON can hold.
    """

    comparison: pd.DataFrame
    curves: pd.DataFrame
    predictions: pd.DataFrame
    detectors: pd.DataFrame | None = None
    neurons: pd.DataFrame | None = None
    small_images: pd.DataFrame | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Those that there are, by name."""
        tables = {name: getattr(self, name) for name in _TRANSFER_TABLES}
        return {name: table for name, table in tables.items() if table is not None}

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the tables as ``transfer_<name>.parquet``, and ``transfer.json`` last.

        Parameters
        ----------
        folder : path-like
            Made if it is not there.

        Returns
        -------
        Path
            Of ``transfer.json``.
        """
        folder = Path(folder)
        path, (kind, version) = folder / TRANSFER_FILE, _TRANSFER_FORMAT
        path.unlink(missing_ok=True)  # until all tables are there, there are no results
        flush_names(folder)
        for name, table in self.tables().items():
            write_whole(_transfer_table(folder, name), partial(table.to_parquet, index=False))
        record = {
            "format": kind,
            "version": version,
            "tables": list(self.tables()),
            "about": self.about,
        }
        write_whole(path, json.dumps(record, indent=1, ensure_ascii=False))
        return path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Transfer:
        """Read what `save` wrote.

        Raises
        ------
        FeatlabError
            No results there, an unknown version, a table missing or damaged.
        """
        folder = Path(folder)
        path = folder / TRANSFER_FILE
        if not path.is_file():
            raise FeatlabError(
                f"there are no finished results in {folder}; make them with `featlab finetune`."
            )
        try:
            record = json.loads(path.read_text("utf-8"))
            kind, version = record["format"], record["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise FeatlabError(f"{path} is damaged: {error}") from error
        if (kind, version) != _TRANSFER_FORMAT:
            known = " ".join(_TRANSFER_FORMAT)
            raise FeatlabError(
                f"{path} is {kind} version {version}, this featlab reads {known}; you may need "
                "to update."
            )
        tables = {}
        for name in record["tables"]:
            file = _transfer_table(folder, name)
            try:
                tables[name] = pd.read_parquet(file)
            except (OSError, ValueError) as error:
                raise FeatlabError(f"{file} is missing or damaged: {error}") from error
        return cls(**tables, about=record["about"])


def _transfer_table(folder: Path, name: str) -> Path:
    return folder / f"transfer_{name}.parquet"
