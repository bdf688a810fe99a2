"""The strip of verdicts, the literature and the lines for Python."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest
from fake_results import make_results

from featlab import backbones, cli, extract, features, images, pipeline
from featlab.report._answers import checks, verdict
from featlab.report._data import data
from featlab.report._elements import GLOSSARY, REFERENCES, Citations, Glossary, Options
from featlab.report._methods import described
from featlab.report.overview import python_lines
from featlab.results.analysis import Selection
from featlab.store import MapStore


def audited(verdicts):
    table = pd.DataFrame(
        {
            "check": [f"check_{k}" for k in range(len(verdicts))],
            "verdict": verdicts,
            "finding": [f"finding {k} <b>" for k in range(len(verdicts))],
            "n": 10,
        }
    )
    return SimpleNamespace(summary=table)


@pytest.fixture(scope="module")
def results():
    return make_results(c=16, pictures=False)


def test_the_worst_checks_come_first_and_are_counted():
    found = checks(audited(["pass", "warn", "fail", "not done", "warn"]))
    assert [check.verdict for check in found] == ["fail", "warn", "warn", "pass", "not done"]
    assert [check.name for check in found][:3] == ["check 2", "check 1", "check 4"]
    assert (
        str(verdict(SimpleNamespace(audit=audited(["fail", "warn", "warn", "pass", "not done"]))))
        == "5 checks of the set: 1 fails, 2 warn, 1 passes, 1 not done."
    )
    assert {check.sign for check in found} == {"✕", "!", "✓", "–"}


def test_works_are_numbered_by_first_mention_and_all_used():
    citations = Citations()
    assert citations.cite("cam", "ddt") == " [1, 2]"
    assert citations.cite("ddt") == " [2]"
    assert citations.cite("fdr_bh", "cam") == " [1, 3]"
    assert citations.cite("nothing") == ""
    assert [work.text[:4] for work in citations.cited] == ["Zhou", "Wei ", "Benj"]
    for work in REFERENCES.values():
        assert re.search(r"\((19|20)\d\d\)\.", work.text)
        assert not (work.doi and work.arxiv)


def test_terms_are_marked_once_a_section_and_again_in_a_fold():
    glossary = Glossary()
    html = (
        '<p title="AUROC">(AUROC of a <bdi>silent</bdi> detector; AUROC</p><table><caption>'
        "Detectors,\nIoU</caption><thead><tr><th>IoU</th></tr></thead><tbody><tr><td>t-SNE</td></tr></tbody>"
        '</table><div class="interactive" hidden><p>t-SNE<br></p></div><details><summary>'
        "silent</summary><div>heat\nmaps, IoU, silent</div></details><p>silent MobileNetV2</p>"
    )
    made = str(glossary.marked(html))
    marks = re.findall(r'<button type="button" class="term" popovertarget="([^"]+)">([^<]+)<', made)
    assert [text for _, text in marks] == [
        *("AUROC", "detector", "IoU", "heat\nmaps", "silent", "silent"),
    ]
    assert re.sub(r'</?(button type="button" class="term"|button|span)[^>]*>', "", made) == html
    assert {place for place, _ in marks} == {term.id for term in glossary.met.values()}
    # A line does not end between a button and what stands close to it.
    assert 'class="whole">(<button' in str(Glossary().marked("<p>by it (AUROC, 0.9)</p>"))
    again = str(glossary.marked("<p>AUROC</p>"))  # another section
    assert again.count("<button") == 1


def test_a_term_is_explained_in_plain_words_once():
    assert len({term.id for term in GLOSSARY.values()}) == len(GLOSSARY) >= 12
    forms = [form.lower() for term in GLOSSARY.values() for form in term.forms]
    assert len(set(forms)) == len(forms)
    for term in GLOSSARY.values():
        assert 40 < len(term.text) < 240 and "<" not in term.text and term.text.endswith(".")


def test_methods_cite_what_was_used_and_nothing_else(results):
    paragraphs, references = described(results)
    text = " ".join(paragraphs)
    numbers = {int(n) for group in re.findall(r"\[([\d, ]+)\]", text) for n in group.split(", ")}
    assert numbers == set(range(1, len(references) + 1))
    listed = " ".join(work.text for work in references)
    for author in ("Mann & Whitney", "Benjamini & Hochberg", "Kriegeskorte", "Choe", "Tan & Le"):
        assert author in listed
    for author in ("Brunner", "Springenberg", "van der Maaten", "Westfall"):
        assert author not in listed
    selection = Selection(test="brunner_munzel", correction="max_t")
    paragraphs, references = described(
        dataclasses.replace(
            results, selection=selection, localisation=None, gradients=SimpleNamespace(facts={})
        )
    )
    listed = " ".join(work.text for work in references)
    assert "Brunner" in listed and "Westfall" in listed and "Adebayo" in listed
    assert "Choe" not in listed and "Mann & Whitney" not in listed


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, "load_backbone('efficientnet_lite0', input_size=(224, 224), layers=['top'])"),
        ({"weights": "random"}, "weights=None, input_size"),
        ({"weights": "mine.weights.h5"}, "weights='mine.weights.h5', input_size"),
        ({"output_stride": "16"}, "layers=['top'], output_stride=16)"),
        ({"output_stride": "network's own"}, "layers=['top'])\n"),
        (
            {"resize": "pad", "dtype": "float32"},
            "skipped=skipped, options=extract.PassOptions(resize='pad', dtype='float32'))",
        ),
    ],
)
def test_python_lines_say_what_differs_from_the_defaults(results, known, expected, monkeypatch):
    provenance = results.store.provenance | known
    monkeypatch.setattr(results.store, "provenance", provenance)
    lines = python_lines(results)
    ast.parse(lines)
    assert expected in lines
    assert "index_images('my pictures', on_error='skip')" in lines and "random_state=0" in lines


def test_python_lines_read_the_pictures_as_they_were_read(
    tmp_path, picture_folder, fake_backbone, monkeypatch, results
):
    folder = picture_folder({"a": 4, "b": 4})
    next(folder.glob("a/*")).write_bytes(b"no picture")
    named = pd.DataFrame({"path": sorted(str(p.relative_to(folder)) for p in folder.glob("b/*"))})
    named.assign(label=["x", "y"] * 2).to_csv(folder / "some.csv", index=False)
    monkeypatch.chdir(folder.parent)
    monkeypatch.setattr(cli._pass, "load_network", lambda *a, **k: fake_backbone)
    named.to_csv(folder / "some.tsv", index=False, sep="\t")
    odd = named.rename(columns={"path": "Photo"}).assign(other="c.png", kind=["x", "y"] * 2)
    odd.to_csv(folder / "odd.csv", index=False)
    (folder.parent / "lists").mkdir()
    names = "\n".join(f"../{folder.name}/{path}" for path in [*named["path"], "a/001.png"])
    (folder.parent / "lists" / "some.txt").write_text(names)
    for source, options in (
        (folder, ("--on-error", "skip", "--group-from", r"(\d)\.")),
        (folder / "some.csv", ()),
        (folder / "some.tsv", ()),
        (folder / "odd.csv", ("--columns", "path=Photo, label=kind")),
        (folder.parent / "lists" / "some.txt", ()),
    ):
        path = tmp_path / f"{source.name}.h5"
        monkeypatch.setattr(
            "sys.argv", ["featlab", "extract", str(source), "-o", str(path), *options]
        )
        with pytest.raises(SystemExit, match="0"):
            cli.main()
        with MapStore(path) as store:
            lines = python_lines(dataclasses.replace(results, store=store)).splitlines()
            namespace = {"images": images}
            exec(lines[3], namespace)
            pd.testing.assert_frame_equal(namespace["table"], store.images)


def test_the_page_tells_how_the_set_was_read(results, monkeypatch):
    said = {"labels": "the folders <a>, b", "boxes": "6 files of YOLO, such as labels/1.txt"}
    known = results.store.provenance | {"reading": json.dumps(said)}
    monkeypatch.setattr(results.store, "provenance", known)
    made = data(results, Options()).tables["reading"]
    assert made.caption == "How the set was read"
    assert [[str(cell) for cell in row] for row in made.rows] == [
        ["labels", "<bdi>the folders &lt;a&gt;, b</bdi>"],
        ["boxes", f"<bdi>{said['boxes']}</bdi>"],
    ]


def test_a_store_that_does_not_tell_how_it_was_read_says_so(results):
    assert "# The store does not tell" in python_lines(results)


@pytest.mark.slow
def test_python_lines_make_the_results_again(tmp_path, picture_folder, fake_backbone, monkeypatch):
    folder = picture_folder({"a": 24, "b": 24})
    table, boxes, _ = images.index_images(folder)
    monkeypatch.chdir(folder.parent)
    with extract.extract_maps(table, fake_backbone, "maps.h5", boxes=boxes) as store:
        first = pipeline.analyse(store, random_state=3)
        lines = python_lines(first)
    calls = fake_backbone.calls
    monkeypatch.setattr(backbones, "load_backbone", lambda *a, **k: fake_backbone)
    namespace: dict = {}
    exec(compile(lines, "lines", "exec"), namespace)
    # The probe of the network is not a pass over pictures.
    assert fake_backbone.calls == calls
    again = namespace["results"]
    pd.testing.assert_frame_equal(again.neurons, first.neurons)
    pd.testing.assert_frame_equal(again.heads.table, first.heads.table)
    assert features.feature_table(namespace["store"]).shape[0] == 48
    page = (tmp_path / "results/report.html").read_text("utf-8")
    assert page.index('class="strip"') < page.index('class="answers"') < page.index('id="checks"')
    before = page[: page.index('id="checks"')]  # A link opens only the fold that it leads into.
    assert before.rindex("<details") > before.rindex("</details>")
    alarms = first.audit.summary["verdict"].isin(["fail", "warn"])
    assert page.count('<a href="#checks">') == alarms.sum() > 0
