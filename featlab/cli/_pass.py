"""From pictures to a report in one command; and the pass that others begin with."""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import featlab
from featlab.cli._options import (
    BoxKind,
    CopiesOrDrop,
    ModelBackbone,
    ModelCustom,
    ModelWeights,
    Output,
    Pass,
    Refit,
    Seed,
    bar,
    command_line,
    extract_bar,
    picture_bar,
    quiet_bar,
    takes_pass,
    tell,
    tell_boxes,
    tell_skipped,
    write_tables,
)
from featlab.errors import FeatlabError
from featlab.system import libraries_silenced
from featlab.system.machine import give_back_large_blocks

_READING = (
    *("classes", "group_from", "split_from", "label_from", "label_from_boxes", "box_units"),
    *("intensity", "on_error"),
)


Brief = Annotated[
    bool,
    typer.Option("--brief", help="Also brief.html, one sheet of A4: answers, pictures, one table."),
]


@takes_pass
def run(
    made: Pass,
    output: Output,
    box_kind: BoxKind = None,
    copies: CopiesOrDrop = "together",
    seed: Seed = 0,
    refit: Refit = False,
    brief: Brief = False,
) -> None:
    """From pictures to a report: who is in them, which neurons tell, and where it is.

    Leaves report.html with its tables, maps.h5 (the network's feature maps, which other commands
    ask) and, of a set with labels, model.featlab (for `featlab predict`).
    """
    run_all(made, output, box_kind, copies, seed, refit=refit, brief=brief)


def run_all(
    made: Pass,
    output: Path,
    box_kind: str | None,
    copies: str,
    seed: int,
    *,
    refit: bool = False,
    brief: bool = False,
) -> None:
    """What `run` and `demo` do."""
    path = output / "maps.h5"
    with workers_ready(path.exists()):
        start = time.perf_counter()
        refuse_same(made, output)
        tables = index(made)
        seconds = {"index": round(time.perf_counter() - start, 3)}
        # What the later stages would refuse is refused before the pass, not after it.
        featlab.splits.make_split(tables.images, random_state=seed)
        featlab.arguments.boxes_of_kind(tables.boxes, box_kind)
        output.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        store, passed = finished_store(made, tables, path)
        if passed:
            seconds["extract"] = round(time.perf_counter() - start, 3)
        if copies == "drop":
            with store:
                store = featlab.pipeline.distinct_store(
                    store, load_network(made), output / "distinct.h5", options=pass_options(made)
                )
        with store:
            kept = "split" if copies == "split" else "together"
            write_page(store, output, box_kind, kept, seed, seconds, refit=refit, brief=brief)


def share_of(text: str) -> tuple[int, int]:
    """`3/8` as numbers."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise FeatlabError(f"--shard must be k/n with 1 ≤ k ≤ n, such as 3/8, got {text!r}.")
    return int(number), int(of)


def check_apart(store: Path) -> None:
    """Verify a store that somebody else wrote in a process of its own, before it is opened here."""
    from featlab.system.files import end_apart

    if failure := end_apart([sys.executable, "-m", "featlab", "verify", str(store)]):
        raise FeatlabError(
            failure.removeprefix("featlab: ")
            if store.name in failure
            else f"{store} was not opened: {failure}. Extract it again."
        )


def check_foreign(store: Path) -> None:
    """As `check_apart`, where the file belongs to another user."""
    from featlab.system.files import is_own

    if not is_own(store):
        check_apart(store)


@contextmanager
def opened_store(path: Path, copies: str) -> Iterator[featlab.store.MapStore]:
    """A store whose copies are groups, unless they are to be split."""
    with ExitStack() as stack:
        yield opened_stores(stack, [path], copies)[0]


def opened_stores(
    stack: ExitStack, paths: Iterable[Path], copies: str
) -> list[featlab.store.MapStore]:
    """Stores of the same images, all with the groups of the first."""
    stores = [stack.enter_context(featlab.store.MapStore(path)) for path in paths]
    kept = featlab.pipeline.stores.stores_with_copies(stores, copies)
    return [stack.enter_context(store) for store in kept]


def write_page(
    store: featlab.store.MapStore,
    output: Path,
    box_kind: str | None,
    copies: str,
    seed: int,
    seconds: dict[str, float],
    *,
    refit: bool,
    brief: bool = False,
) -> featlab.results.Results:
    """Report, tables and summary of a store, with what other commands left in the folder."""
    from featlab.system.processes import load

    load("featlab.pipeline")
    results = featlab.pipeline.analyse(
        store,
        box_kind=box_kind,
        copies=copies,
        random_state=seed,
        command=command_line(),
        seconds=seconds,
        progress=quiet_bar,
        **_earlier(output),
    )
    for name in ("heads", "predictor"):
        if name in results.left_out:
            what = "predictor, heads, detectors" if name == "heads" else name
            logging.getLogger(__name__).info("no %s: %s", what, results.left_out[name])
    if refit:
        results = featlab.pipeline.pictures.with_refit(results)
    featlab.pipeline.write_results(results, output)
    tell(featlab.report.summary(results), output)
    if brief:
        print(f"in brief: {featlab.report.write_brief(results, output / 'brief.html')}")
    tell_skipped(store.skipped, output)
    return results


def predict(
    model: Annotated[
        Path, typer.Argument(help="A predictor (model.featlab), or the folder of a run with one.")
    ],
    pictures: Annotated[
        list[str],
        typer.Argument(help="Files, folders of any depth, patterns, CSV files with a column path."),
    ],
    output: Output,
    coverage: Annotated[
        float, typer.Option(help="How often the classes in column set shall hold the right one.")
    ] = 0.9,
    on_error: Annotated[
        str,
        typer.Option(
            help="skip: list files that cannot be used in skipped.csv. raise: stop where there are "
            "any."
        ),
    ] = "skip",
    box_head: Annotated[
        Path | None,
        typer.Option(
            help="A box head of `featlab boxheads -o` (.boxhead) that makes the boxes. (default: "
            "the best that the model knows)"
        ),
    ] = None,
    keep_maps: Annotated[
        bool,
        typer.Option(
            "--keep-maps",
            help="Keep predicted_maps.h5: a second call makes no pass, and commands that take a "
            "store can ask it.",
        ),
    ] = False,
    pictures_drawn: Annotated[
        Literal["none", "boxes", "heat"],
        typer.Option(
            "--pictures",
            help="Draw box, class and probability onto a copy of each picture; heat: the heat map, "
            "too.",
        ),
    ] = "none",
    page: Annotated[
        bool, typer.Option("--page", help="One HTML page of the predictions, to look through.")
    ] = False,
    formats: Annotated[
        str,
        typer.Option(
            help="Boxes for other tools, separated by commas: csv, coco, voc, yolo, label-studio, "
            "cvat. (default: none)"
        ),
    ] = "",
    backbone: ModelBackbone = None,
    weights: ModelWeights = None,
    custom: ModelCustom = None,
) -> None:
    """Ask any picture: what is it, where is it, and how sure is that.

    Writes predictions.csv: a row for each picture with class, probability and box, and how far each
    may be trusted. The pictures need no labels.
    """
    from pandas import concat

    # So that memory does not grow with the number of pictures.
    give_back_large_blocks()
    # What would be refused after the pass is refused before it.
    _refuse_folder(output, pictures)
    featlab.arguments.check_between("--coverage", coverage, 0, 1, without=(0,))
    featlab.arguments.check_choice("--on-error", on_error, ("raise", "skip"))
    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    for name in wanted:
        featlab.arguments.check_choice("--formats", name, featlab.predict.FORMATS)
    # Drawing asks the maps of every picture again.
    drawn = page or pictures_drawn != "none"
    parts = output / featlab.predict.PARTS
    folder = output if keep_maps or not drawn else parts
    predictor = featlab.predict.load_predictor(model)
    if box_head is not None:
        predictor = predictor.with_box_head(featlab.boxheads.load_box_head(box_head))
    images, skipped = featlab.images.index_pictures(
        pictures, intensity=predictor.intensity, on_error=on_error
    )
    made = {"pictures": pictures_drawn != "none"}
    featlab.predict.check_before_the_pass(output, images, wanted, **made)
    with libraries_silenced():
        network = featlab.backbones.rebuild_backbone(
            predictor.provenance, backbone, weights, custom or ()
        )
        predictor.check(network)
        if not (folder / featlab.predict.MAPS).exists():
            network.probe()  # loads them
    table = predictor.of_files(
        images, skipped, network, folder, keep_maps or drawn,
        coverage=coverage, on_error=on_error, progress=picture_bar,
    )  # fmt: skip
    gone = images.loc[~images["path"].isin(table["path"]), ["path"]]
    why = "it could not be read when its turn came, or was another file by then"
    skipped = concat([skipped, gone.assign(reason=why)], ignore_index=True)
    write_tables(output, {"predictions": table, "skipped": skipped})
    if drawn:
        heat = pictures_drawn == "heat"
        with featlab.store.MapStore(folder / featlab.predict.MAPS) as store:
            if pictures_drawn != "none":
                featlab.predict.write_pictures(
                    predictor, store, table, output / featlab.predict.PICTURES, heat=heat
                )
            if page:
                page_data = featlab.predict.page_predictions(
                    predictor, store, table, coverage=coverage, heat=heat
                )
                featlab.report.write_predictions(page_data, output / featlab.predict.PAGE)
    shutil.rmtree(parts, ignore_errors=True)
    by = f"featlab {featlab.__version__}, {predictor.provenance['backbone']}"
    author = f"{by}, boxes by {predictor.box_method}"
    featlab.predict.write_boxes(table, output, wanted, classes=predictor.classes, model=author)
    print(*featlab.predict.prediction_lines(predictor, table, coverage), sep="\n")
    tell_skipped(skipped, output)
    if left := featlab.predict.earlier_answers(output, wanted, page=page, **made):
        print(f"left as an earlier call wrote it: {left}")
    print(f"predictions: {output / 'predictions.csv'}")


def _refuse_folder(output: Path, pictures: Iterable[str]) -> None:
    """Refuse a folder whose content would be asked, or lost."""
    answers = output.resolve()
    for one in pictures:
        if Path(one).is_dir() and answers.is_relative_to(Path(one).resolve()):
            raise FeatlabError(
                f"{output} lies in {one}, whose pictures are asked for; give -o another folder."
            )
        # Such as the pictures that an earlier call has drawn.
        several = [one] if os.path.lexists(one) else glob.iglob(one, recursive=True)
        for file in several if output.exists() else ():
            if Path(file).resolve().is_relative_to(answers):
                raise FeatlabError(
                    f"{file}, which {one} asks for, lies in {output}, where the answers go; give "
                    "-o another folder."
                )
    if (output / featlab.predict.MODEL).exists():
        raise FeatlabError(
            f"{output} holds a run, whose own predictions would be lost; give -o another folder."
        )


def _earlier(folder: Path) -> dict[str, Any]:
    """What `featlab gradients` and `featlab finetune` left in a folder, for the same page."""
    networks = featlab.results.networks
    results: dict[str, Any] = {}
    if (folder / networks.GRADIENTS_FILE).is_file():
        results["gradients"] = networks.GradientResults.load(folder)
    if (folder / networks.TRANSFER_FILE).is_file():
        results["transfer"] = networks.Transfer.load(folder)
    return results


def workers_ready(wanted: bool = True) -> AbstractContextManager[None]:
    """Other processes that import what they will need while this one does; where no pass comes."""
    if not wanted:
        return nullcontext()
    from featlab.system.processes import ready

    return ready("featlab.pipeline", "sklearn.ensemble")


def index(made: Pass) -> featlab.store.format.Tables:
    """The tables of the pictures, with the command and how they were read; with a bar."""
    given = {name: getattr(made, name) for name in _READING}
    given["classes"] = made.classes and [name.strip() for name in made.classes.split(",")]
    given = {name: value for name, value in given.items() if value is not None}
    listed = {} if made.columns is None else _columns(made.columns)
    read = featlab.images.index_images(
        featlab.images.PictureTable(made.images, listed) if listed else made.images,
        **given,
        progress=partial(bar, label="index"),
    )
    given |= {"columns": listed} if listed else {}
    tell_boxes(read.images, read.boxes)
    # From the pictures' folder: of a list it need not be that of the list.
    source = os.path.relpath(made.images, read.images["folder"].iloc[0]).replace(os.sep, "/")
    indexed = json.dumps({"source": source, **given})
    provenance = {"command": command_line(), "indexed": indexed, **read.about}
    return featlab.store.format.Tables(*read, provenance)


def _columns(text: str) -> dict[str, str]:
    """``path=photo,label=kind`` as a mapping."""
    pairs = [one.partition("=") for one in text.split(",")]
    if not all(key.strip() and name.strip() for key, _, name in pairs):
        raise FeatlabError(
            f"--columns must be such as path=photo,label=kind, of path, label, split and group, "
            f"got {text!r}."
        )
    return {key.strip(): name.strip() for key, _, name in pairs}


def refuse_same(made: Pass, output: Path) -> None:
    """Refuse to write results into the very folder of the pictures, where they would be read."""
    if output.resolve() == made.images.resolve():
        raise FeatlabError(
            f"{output} is the folder of the pictures; give -o another, or one in it."
        )


def load_network(made: Pass) -> featlab.backbones.Backbone:
    """The network that the options name; "none" is no weights, layers are separated by commas."""
    return featlab.backbones.load_backbone(
        made.backbone,
        weights=None if made.weights.lower() == "none" else made.weights,
        input_size=made.input_size,
        layers=made.layers.split(",") if made.layers else None,
        output_stride=made.output_stride,
        preprocessing=made.preprocessing,
        engine=made.engine,
        precision=made.precision,
        classifier=made.classifier,
        custom=made.custom or (),
    )


def finished_store(
    made: Pass,
    tables: featlab.store.format.Tables,
    path: Path,
    extract: Callable[..., featlab.store.MapStore] | None = None,
) -> tuple[featlab.store.MapStore, bool]:
    """The finished store, and whether a pass was needed; by `extract_maps` or another `extract`."""
    shared = pass_arguments(made, tables)
    with libraries_silenced():
        network = load_network(made)
        store = featlab.extract.stores.find_store(tables.images, network, path, **shared)
        if store is None:
            network.probe()  # loads them
    if store is not None:
        logging.getLogger(__name__).info("%s is finished already: no forward pass", path)
        return store, False
    make = extract or featlab.extract.extract_maps
    return make(tables.images, network, path, progress=extract_bar, **shared), True


def pass_arguments(made: Pass, tables: featlab.store.format.Tables) -> dict[str, Any]:
    """What every way of making a store takes beside the images, the network and the path."""
    return {
        "boxes": tables.boxes,
        "skipped": tables.skipped,
        "about": tables.provenance,
        "options": pass_options(made),
    }


def pass_options(made: Pass) -> featlab.extract.PassOptions:
    """How the pass runs the network over the images."""
    return featlab.extract.PassOptions(
        made.batch_size, made.resize, made.dtype, made.own_logits, made.on_error
    )
