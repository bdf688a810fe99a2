"""Stores, made by the pass alone or joined; sets, reported, compared, laid out and audited."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import featlab
from featlab.cli import _pass
from featlab.cli._options import (
    BoxKind,
    Copies,
    Folder,
    Layer,
    Output,
    Pass,
    Refit,
    Seed,
    Store,
    Virtual,
    bar,
    command_line,
    download_bar,
    extract_bar,
    quiet_bar,
    show,
    takes_pass,
    write_figures,
    write_tables,
)
from featlab.cli._pass import Brief, opened_stores, workers_ready, write_page
from featlab.errors import FeatlabError
from featlab.system import libraries_silenced

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from distributed import Client


_N_SCENES = 240


def demo(
    output: Output = Path("featlab-demo"),
    dataset: Annotated[
        str,
        typer.Option(
            help="scenes (built in); or, downloaded once: oxford-pets, oxford-pets-species, "
            "cub-200-2011."
        ),
    ] = "scenes",
    data: Annotated[
        Path | None, typer.Option(help="Folder for downloads; ~/.cache/featlab by default.")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", min=40, help=f"Number of scenes; {_N_SCENES} by default.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Run everything on built-in scenes, or a public set, with the built-in network."""
    if dataset != "scenes":
        if n is not None:
            raise FeatlabError("-n is the number of built-in scenes; leave it out with --dataset.")
        images, box_kind = _fetched(dataset, data or Path.home() / ".cache" / "featlab")
        # A public set is as it is: a file or box in it that cannot be used is nobody's to mend.
        _pass.run_all(Pass(images, on_error="skip"), output, box_kind, "together", seed)
        return
    scenes = featlab.datasets.write_scenes(
        output / "scenes", n or _N_SCENES, random_state=seed, progress=partial(bar, label="scenes")
    )
    _pass.run_all(Pass(scenes), output, None, "together", seed)


def _fetched(dataset: str, data: Path) -> tuple[Path, str]:
    """The index of a public set, and the kind of its boxes that every test picture has."""
    sets = featlab.datasets
    if dataset in ("oxford-pets", "oxford-pets-species"):
        label = "species" if dataset.endswith("-species") else "breed"
        return sets.fetch_oxford_pets(data, label=label, progress=download_bar), "body"
    if dataset == "cub-200-2011":
        return sets.fetch_cub_200_2011(data, progress=download_bar), "object"
    raise FeatlabError(
        "--dataset must be scenes, oxford-pets, oxford-pets-species or cub-200-2011, got "
        f"{dataset!r}."
    )


@contextmanager
def labelled_store(path: Path, copies: str) -> Iterator[featlab.store.MapStore]:
    """As ``opened_store``, of a set with labels."""
    with ExitStack() as stack:
        yield labelled_stores(stack, [path], copies)[0]


def labelled_stores(
    stack: ExitStack, paths: Iterable[Path], copies: str
) -> list[featlab.store.MapStore]:
    """As ``opened_stores``, of a set with labels; refused before copies are looked for."""
    paths = list(paths)
    for path in paths:
        with featlab.store.MapStore(path) as store:
            featlab.pipeline.stores.check_labelled(store)
    return opened_stores(stack, paths, copies)


def report(
    store: Store,
    output: Output,
    box_kind: BoxKind = None,
    copies: Copies = "together",
    seed: Seed = 0,
    refit: Refit = False,
    brief: Brief = False,
    figures: Annotated[
        Literal["svg", "pdf", "png"] | None,
        typer.Option(help="Write every figure of the page to the folder figures as well."),
    ] = None,
) -> None:
    """Write what `featlab run` writes, of a store that is there; its figures where asked for."""
    _pass.check_foreign(store)
    with workers_ready(), featlab.store.MapStore(store) as opened:
        results = write_page(opened, output, box_kind, copies, seed, {}, refit=refit, brief=brief)
        if figures is not None:
            written = featlab.report.write_figures(results, output / "figures", format=figures)
            print(f"figures: {output / 'figures'} ({len(written)} files)")


def compare(
    stores: Annotated[
        list[Path],
        typer.Argument(help="Stores of the same images, or the folders of runs with them."),
    ],
    output: Output,
    names: Annotated[
        str | None,
        typer.Option(help="Comma-separated, one for each store. (default: what tells them apart)"),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Comma-separated layer names. (default: every layer stored)")
    ] = None,
    box_kind: BoxKind = None,
    copies: Copies = "together",
    seed: Seed = 0,
) -> None:
    """Compare networks, layers or input sizes on the same images, on one page."""
    with ExitStack() as opened:
        several = [opened.enter_context(featlab.store.MapStore(store)) for store in stores]
        for one in several:
            featlab.pipeline.stores.check_labelled(one)
        comparison = featlab.pipeline.compare_stores(
            several,
            names=[name.strip() for name in names.split(",")] if names else None,
            layers=layers.split(",") if layers else None,
            box_kind=box_kind,
            copies=copies,
            random_state=seed,
            command=command_line(),
            progress=partial(quiet_bar, label="compare", unit="entry"),
        )
    columns = ["name", "accuracy", "confirmed", "auroc_confirmed", "method", "box_accuracy"]
    show(comparison.entries, [*columns, "mean_iou", "megabytes"])
    print("auroc_confirmed: of the confirmed detector that led at selection; this flatters it")
    print(f"best head, chosen on the confirm images: {comparison.best_head}")
    if comparison.best_boxes:
        print(f"best boxes, chosen on the confirm images: {comparison.best_boxes}")
    print(f"report: {featlab.report.write_comparison(comparison, output / 'compare.html')}")


def embed(
    store: Store, output: Output, layer: Layer = None, copies: Copies = "together", seed: Seed = 0
) -> None:
    """Lay the images on a plane, name their nearest neighbours and find the misclassified."""
    with labelled_store(store, copies) as opened:
        labels, groups = opened.images["label"], opened.images["group"]
        split = featlab.splits.make_split(opened.images, random_state=seed)
        X = featlab.features.feature_table(opened, layer=layer)
        scores = featlab.heads.evaluate_heads(
            X, labels, split, groups=groups, heads=["logistic"], random_state=seed
        )
        overview = featlab.embed.overview(X, labels, scores.of("logistic"), random_state=seed)
        plane, wrong = overview.embedding, overview.misclassified
        load = featlab.pipeline.pictures.picture_loader(opened)
        pictures = {int(row): load(int(row)) for row in plane.thumbnails["row"]}
        about = opened.images[["path", "label"]].assign(split=split)
    assert wrong is not None
    tables = {
        "embedding": about.join(plane.coordinates, how="right"),
        "neighbours": overview.neighbours,
        "separation": overview.separation.table,
        "misclassified": wrong,
    }
    write_tables(output, tables)
    k, trust = plane.n_neighbors, plane.trustworthiness
    print(
        f"{len(plane)} images; perplexity {plane.perplexity:.3g}; trustworthiness over {k} "
        f"neighbours: t-SNE {trust['tsne']:.3f}, PCA {trust['pca']:.3f}"
    )
    show(overview.separation.table, decimals="{:.3f}")
    n = len(scores.of("logistic"))
    print(f"misclassified test images of the logistic head: {len(wrong)} of {n}")
    if len(wrong):
        show(wrong.head(10), decimals="{:.2f}")
    drawings: dict[str, Any] = {
        f"plane_{name}": featlab.plots.embedding_scatter(
            plane, labels, misclassified=wrong["row"].to_numpy(), plane=name
        )
        for name in ("tsne", "pca")
    }
    drawings["thumbnails"] = featlab.plots.embedding_thumbnails(plane, pictures, labels)
    write_figures(output, drawings, ["png"])


def audit(
    store: Store,
    box_kind: BoxKind = None,
    output: Folder = None,
    copies: Copies = "together",
    seed: Seed = 0,
) -> None:
    """Is the set fit for the question: duplicates, labels, outliers, confounds, colour alone."""
    with featlab.store.MapStore(store) as whole:
        featlab.pipeline.stores.check_labelled(whole)
        pairs = featlab.audit.duplicates(whole)
        opened = featlab.pipeline.stores.with_copies(whole, copies, pairs)
        labels, groups = opened.images["label"], opened.images["group"]
        split = featlab.splits.make_split(opened.images, random_state=seed)
        X = featlab.features.feature_table(opened)
        scores = featlab.heads.evaluate_heads(
            X, labels, split, colour=opened.colour_histogram, groups=groups, random_state=seed
        )
        neurons = featlab.pipeline.detectors.find_detectors(
            X, labels, split, groups, random_state=seed
        )
        audit = featlab.audit.audit_set(
            opened,
            split,
            head_table=scores.table,
            neurons=neurons,
            box_kind=box_kind,
            pairs=pairs,
            random_state=seed,
            progress=partial(quiet_bar, label="audit", unit="img"),
        )
    for _, row in audit.summary.iterrows():
        print(f"{row['verdict']:>8}  {row['check']}: {row['finding']}")
    print(f"{audit.verdict:>8}  in all")
    tables = vars(audit) | {"audit": audit.summary}
    write_tables(output, {name: tables[name] for name in tables if name != "summary"})
    write_figures(output, {"confounds": featlab.plots.scores.confounds(audit.confounds)})


@takes_pass
def extract(
    made: Pass,
    store: Annotated[Path, typer.Option("-o", "--output", help="The store to write (.h5).")],
    append: Annotated[
        Path | None,
        typer.Option(
            help="A finished store beside the new one: only pictures that it lacks are run, and "
            "the new store shares its maps."
        ),
    ] = None,
    virtual: Virtual = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="k/n: only the k-th of n shares, on n machines that see the same folder; then "
            "`featlab join`."
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a Dask scheduler, such as tcp://10.0.0.1:8786: its workers run the "
            "network."
        ),
    ] = None,
) -> None:
    """Run the network once and keep its feature maps; goes on where it was interrupted."""
    if shard is not None and (append or virtual or scheduler):
        raise FeatlabError("--shard goes without --append, --virtual and --scheduler.")
    share = None if shard is None else _pass.share_of(shard)
    tables = _pass.index(made)
    if share is not None:
        _extract_share(made, tables, store, share)
        return
    with _client(scheduler) as client:
        print(_pass.finished_store(made, tables, store, _maker(append, virtual, client))[0])


def join(
    store: Annotated[Path, typer.Argument(help="The store that every shard was given.")],
    virtual: Virtual = False,
) -> None:
    """Join what the shards of a pass wrote; or make one file of a virtual store."""
    print(featlab.extract.join_shards(store, virtual=virtual))


def info(
    store: Annotated[
        Path, typer.Argument(help="A store, the folder of a run, or a .keras or .onnx file.")
    ],
    input_size: Annotated[
        int | None, typer.Option(help="Of a network that leaves it open: side in pixels.")
    ] = None,
) -> None:
    """Say what a store holds, or which layers of a network in a file give maps."""
    if store.suffix in (".keras", ".onnx"):
        network = featlab.backbones.load_backbone(
            store, preprocessing="none", input_size=input_size
        )
        for layer, (height, width, neurons) in network.map_layers.items():
            print(f"{layer}: {height} × {width} cells, {neurons} neurons")
        print(f"the one kept by default: {network.layers[0]}")
        return
    with featlab.store.MapStore(store) as opened:
        print(opened)
        for label, count in opened.images["label"].value_counts().sort_index().items():
            print(f"  class {label}: {count} images")
        for kind, count in opened.boxes["kind"].value_counts().sort_index().items():
            print(f"  boxes {kind or '(no kind)'}: {count}")
        if opened.virtual:
            files = {piece.file for piece in opened.pieces}
            print(f"  virtual: its maps lie in {len(files)} other files")
        print(f"  skipped files: {len(opened.skipped)}")
        for path, reason in opened.skipped.itertuples(index=False):
            print(f"    {path}: {reason}")
        for key, value in sorted(opened.provenance.items()):
            if not key.startswith("probe_"):
                print(f"  {key}: {value}")


def verify(
    store: Store,
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="In a process of its own, which may die of it.")
    ] = False,
) -> None:
    """Read a store once and check it against itself."""
    if untrusted:
        _pass.check_apart(store)
    with featlab.store.MapStore(store) as opened:
        opened.verify()
        print(f"{store}: {len(opened)} images, layers {', '.join(opened.layers)}: all is well")


def _extract_share(
    made: Pass, tables: featlab.store.format.Tables, path: Path, share: tuple[int, int]
) -> None:
    with libraries_silenced():
        network = _pass.load_network(made)
        network.probe()
    done = featlab.extract.extract_shard(
        tables.images,
        network,
        path,
        share,
        progress=extract_bar,
        **_pass.pass_arguments(made, tables),
    )
    if done is None:
        print(f"{path} is finished already")
    else:
        print(
            f"shard {share[0]} of {share[1]}: {done} images; when all are done: featlab join {path}"
        )


@contextmanager
def _client(scheduler: str | None) -> Iterator[Client | None]:
    if scheduler is None:
        yield None
        return
    with connect(scheduler) as client:
        yield client


def connect(address: str, seconds: float = 20) -> Client:
    """A client of the Dask scheduler at an address such as ``tcp://10.0.0.1:8786``."""
    try:
        from distributed import Client
    except ImportError as error:
        raise FeatlabError(
            "a Dask cluster needs the extra cluster: pip install 'featlab[cluster]'."
        ) from error
    try:
        return Client(address, timeout=seconds)
    except (OSError, ValueError) as error:
        raise FeatlabError(f"no Dask scheduler answers at {address}: {error}.") from error


def _maker(
    append: Path | None, virtual: bool, client: Client | None
) -> Callable[..., featlab.store.MapStore]:
    """What makes the store: a whole pass, or one over what another store lacks."""
    if append is None:
        return partial(featlab.extract.extract_maps, virtual=virtual, client=client)

    def grown(
        table: pd.DataFrame, network: featlab.backbones.Backbone, path: Path, **options: Any
    ) -> featlab.store.MapStore:
        return featlab.extract.append_maps(table, network, append, path, client=client, **options)

    return grown


def write_cards(
    store: featlab.store.MapStore,
    table: pd.DataFrame,
    detectors: pd.DataFrame,
    rows: np.ndarray,
    folder: Path,
) -> None:
    """One picture for each detector, on images it was not chosen on."""
    featlab.system.files.mark_results(folder)
    for _, row in detectors.iterrows():
        if row["pooling"] not in ("mean", "max"):
            continue
        card = featlab.pipeline.neuron_card(
            store,
            int(row["neuron"]),
            table,
            label=row["class"],
            pooling=row["pooling"],
            layer=row["layer"],
            rows=rows,
        )
        name = f"{row['layer']}_{row['pooling']}_{row['neuron']}_{row['class']}"
        figure = featlab.plots.neuron_card(card)
        featlab.plots.style.save_figure(figure, folder / f"{file_name(name)}.png")
    print(f"cards: {folder}")


def file_name(name: str) -> str:
    """A name that any file system takes, from one that may hold anything; others give others."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:100]
    if plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
