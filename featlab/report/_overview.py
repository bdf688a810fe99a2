"""The strip of the audit's verdicts at the top of the page, and the lines for Python."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePath

from featlab.report import _words as words
from featlab.results.analysis import Results

# Verdict → what stands in the strip: a sign that needs no colour, and a word.
_SIGNS = {"fail": "✕", "warn": "!", "pass": "✓", "not done": "–"}
_WORST_FIRST = tuple(_SIGNS)
_VERBS = (("fails", "fail"), ("warns", "warn"), ("passes", "pass"), ("not done", "not done"))


@dataclass(frozen=True)
class Check:
    """A check of the audit, as the strip shows it."""

    name: str
    verdict: str
    sign: str
    finding: str


def checks(results: Results) -> list[Check]:
    """The checks of the audit, the worst verdict first; empty without an audit."""
    if results.audit is None:
        return []
    found = [
        Check(
            words.readable(row["check"]),
            str(row["verdict"]),
            _SIGNS.get(str(row["verdict"]), "–"),
            str(row["finding"]),
        )
        for _, row in results.audit.summary.iterrows()
    ]
    return sorted(found, key=lambda check: _WORST_FIRST.index(check.verdict))


def verdict(found: list[Check]) -> str:
    """How many checks fail, warn and pass, in one sentence."""
    counts = {word: sum(check.verdict == word for check in found) for word in _WORST_FIRST}
    said = [
        f"{count} {one if count == 1 else many}"
        for (one, many), count in zip(_VERBS, counts.values(), strict=True)
        if count
    ]
    return f"{words.plural(len(found), 'check')} of the set: {', '.join(said)}."


def python_lines(results: Results) -> str:
    """The Python that makes this page again: the pass of the network, then the analysis."""
    known = {key: str(value) for key, value in results.store.provenance.items()}
    root = PurePath(str(results.store.images.attrs.get("root", "")).replace("\\", "/")).name
    network, pass_, analysis = _network(known), _pass(known), _analysis(results)
    return "\n".join(
        [
            "from featlab import backbones, extract, images",
            "from featlab.pipeline import analyse, write_results",
            "",
            f"table, boxes = images.index_images({root or 'my_pictures'!r})",
            f"backbone = backbones.load_backbone({network})",
            f'store = extract.extract_maps(table, backbone, "maps.h5", boxes=boxes{pass_})',
            f"results = analyse(store{analysis})",
            'write_results(results, "results")',
        ]
    )


def _network(known: dict[str, str]) -> str:
    arguments = [repr(known.get("backbone", "efficientnet_lite0"))]
    weights = known.get("weights", "")
    if weights.lower().startswith("random"):
        arguments.append("weights=None")
    elif weights.endswith(".h5"):
        arguments.append(f"weights={weights!r}")
    size = known.get("input_size", "").split(" x ")
    if len(size) == 2:
        arguments.append(f"input_size=({size[0]}, {size[1]})")
    if "layers" in known:
        arguments.append(f"layers={json.loads(known['layers'])!r}")
    if known.get("output_stride", "").isdigit():
        arguments.append(f"output_stride={known['output_stride']}")
    return ", ".join(arguments)


def _pass(known: dict[str, str]) -> str:
    usual = {"resize": "stretch", "dtype": "float16"}
    changed = {key: known[key] for key in usual if known.get(key, usual[key]) != usual[key]}
    return "".join(f", {key}={value!r}" for key, value in changed.items())


def _analysis(results: Results) -> str:
    several = results.store.boxes["kind"].nunique() > 1
    kind = f", box_kind={results.box_kind!r}" if several and results.box_kind else ""
    return f"{kind}, random_state={results.random_state}"
