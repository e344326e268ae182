"""The report as a page: well-formed, self-contained, readable; its figures are the measured ones; no text is markup."""

import dataclasses
import itertools
import re

import numpy as np
import pytest

import keras_notes as kn
from keras_notes import errors
from keras_notes._litert.reader import read_tflite
from keras_notes.bundle import open_bundle
from keras_notes.report import _bundle_sections, write_report
from keras_notes.report._html import element
from keras_notes.report._page import page
from tests.support.bundles import (
    MODEL_FILE,
    TESTDATA,
    add_signature,
    contents,
    edit_manifest,
    output_lsb,
    rewrite_golden,
)
from tests.support.report_pages import (
    BENCH,
    MARKUP,
    ROW,
    Page,
    keep_tensors,
    page_of,
    tensor,
    terms_of,
)


def test_the_page_is_well_formed_and_named(sound):
    assert sound.source.startswith('<!doctype html>\n<html lang="en">')
    assert sound.all("title")[0][1] == "bars: PASS"
    assert [text for _, text in sound.all("h1")] == ["bars"]
    levels = [int(tag[1]) for tag, *_ in sound.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    names = [attributes["id"] for _, attributes, _ in sound.elements if "id" in attributes]
    assert len(set(names)) == len(names)
    for attribute in ("aria-labelledby", "aria-describedby"):
        assert {a[attribute] for _, a, _ in sound.elements if attribute in a} <= set(names)


def test_the_page_loads_nothing(sound):
    assert "://" not in sound.source
    loading = {"script", "link", "img", "iframe", "object", "embed", "audio", "video", "base", "form", "use", "image"}
    assert loading.isdisjoint({tag for tag, *_ in sound.elements})
    assert {"src", "srcset", "data", "style", "action"}.isdisjoint({key for _, a, _ in sound.elements for key in a})
    assert all(attributes["href"].startswith("#") for attributes, _ in sound.all("a"))
    ((_, style),) = sound.all("style")
    assert "url(" not in style
    assert "@import" not in style
    assert (
        {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"},
        "",
    ) in (sound.all("meta"))


def test_every_link_leads_to_a_section(sound):
    sections = [attributes["id"] for attributes, _ in sound.all("section")]
    assert [attributes["href"] for attributes, _ in sound.all("a")] == [f"#{name}" for name in sections]
    assert len(sections) == 7


def test_tables_and_pictures_are_named_for_those_who_do_not_see_them(sound):
    assert len(sound.all("table")) == len(sound.all("caption")) == len(sound.tables)
    assert {attributes["scope"] for attributes, _ in sound.all("th")} == {"col", "row"}
    (attributes, text) = sound.all("svg")[0]
    assert attributes["role"] == "img"
    assert "Bytes of weights by number format" in text
    assert re.fullmatch(r"int8 [\d,]+ bytes; int32 [\d,]+ bytes", sound.all("desc")[0][1])


@pytest.mark.parametrize("background", ["page", "panel"])
@pytest.mark.parametrize("scheme", [0, 1])
def test_the_contrast_of_text_is_at_least_4_5(sound, scheme, background):
    colours = dict(re.findall(r"--(\w+): (#\w{6})", sound.source.split(":root {")[scheme + 1]))

    def luminance(name):
        channels = np.array([int(colours[name][i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722] + 0.05

    for name in colours.keys() - {"page", "panel", "line"}:
        bright, dark = sorted((luminance(name), luminance(background)), reverse=True)
        assert bright / dark >= 4.5, name


@pytest.mark.parametrize("is_run", [True, False])
def test_a_bundle_that_fails_has_a_page_that_says_why(testdata, tmp_path, is_run):
    shift = 3 * output_lsb(open_bundle(testdata))
    rewrite_golden(testdata, lambda values: values + np.float32(shift))
    with pytest.raises(errors.VerificationError) as caught:
        kn.verify(testdata)
    found = caught.value.report
    shown = page_of(testdata, tmp_path, **({} if is_run else {"verification": found}))
    assert shown.all("title")[0][1] == "bars: FAIL"
    assert "FAIL" in [text for _, text in shown.all("span")]
    assert "PASS" not in shown.text
    assert shown.tables["Error over the golden samples"][1][1] == "FAIL"
    assert set(found.failures) <= {text for _, text in shown.all("li")}
    assert f"{found.outputs[0].mean_error_lsb:.2f}" in shown.tables["Error over the golden samples"][1]


def test_of_two_outputs_of_one_name_only_the_failing_one_fails(testdata, tmp_path):
    add_signature(testdata, "step", shift=3 * output_lsb(open_bundle(testdata)))
    row = dataclasses.replace(ROW, model_bytes=open_bundle(testdata).model_bytes)
    shown = page_of(testdata, tmp_path, bench=dataclasses.replace(BENCH, rows=(row,)))
    rows = shown.tables["Error over the golden samples"][1:]
    assert [row[:2] for row in rows] == [["serving_default/output", "pass"], ["step/output", "FAIL"]]


def test_a_bundle_that_passes_says_nothing_of_failure(sound):
    assert "FAIL" not in sound.text
    assert "Why it fails" not in sound.text
    assert sound.tables["Error over the golden samples"][1][1] == "pass"


def test_verification_and_benchmark_are_run_where_none_is_given(testdata, tmp_path):
    shown = Page(write_report(testdata, tmp_path / "report.html"))
    assert [row[1] for row in shown.tables["Latency and memory"][1:]] == ["1", "2"]
    assert shown.tables["Error over the golden samples"][1][1] == "pass"


def test_no_text_of_a_bundle_is_markup(testdata, tmp_path, report):
    def edit(manifest):
        manifest.update(
            name=MARKUP,
            preprocessing=MARKUP,
            labels=[MARKUP, "b", "c", "d"],
            exceptions={MARKUP: "float32"},
            versions={"keras": MARKUP},
        )
        manifest["signatures"][0].update(name=MARKUP)
        manifest["signatures"][0]["inputs"][0].update(name=MARKUP)

    keep_tensors(testdata, [tensor(MARKUP, 1.0)])
    edit_manifest(testdata, edit)
    made = dataclasses.replace(
        report,
        name=MARKUP,
        failures=(MARKUP,),
        operators={MARKUP: 2, "ADD": 1},
        float_islands=(MARKUP,),
        is_mixed=True,
        outputs=(dataclasses.replace(report.outputs[0], name=MARKUP, signature=MARKUP),),
    )
    bench = dataclasses.replace(BENCH, machine=MARKUP, rows=(dataclasses.replace(ROW, name=MARKUP),))
    shown = page_of(testdata, tmp_path, verification=made, bench=bench)
    assert not shown.all("script")
    assert not shown.all("b")
    assert "<script" not in shown.source.lower()
    terms = terms_of(shown)
    assert terms["Name"] == terms["Preprocessing"] == MARKUP
    assert terms["Labels"].startswith(MARKUP)
    assert shown.all("title")[0][1] == f"{MARKUP}: FAIL"
    assert shown.tables["The worst tensors"][1][0] == MARKUP
    assert shown.tables["Operators of the file"][1][0] == MARKUP


def test_no_name_in_the_file_is_markup():
    file = read_tflite(TESTDATA / MODEL_FILE)
    main = dataclasses.replace(file.main, tensors=tuple(dataclasses.replace(t, name=MARKUP) for t in file.main.tensors))
    file = dataclasses.replace(file, graphs=(main,))
    assert "<script" not in "".join(_bundle_sections.sizes(open_bundle(TESTDATA), file))


def test_attributes_are_escaped_as_well():
    assert element("p", title=MARKUP).count('"') == 2
    assert element("p", element("b", "<"), "<") == "<p><b>&lt;</b>&lt;</p>"


def test_characters_that_no_page_may_hold_are_replaced(testdata, tmp_path):
    edit_manifest(testdata, lambda manifest: manifest.update(preprocessing="a\ud800b\x00c\x1bd\u202d\u200d\ne"))
    assert terms_of(page_of(testdata, tmp_path))["Preprocessing"] == "a\ufffdb\ufffdc\ufffdd\u202d\u200d\ne"


@pytest.mark.parametrize("change", [{"name": "other"}, {"recipe": "float32"}, {"model_bytes": 1}])
def test_reports_of_another_bundle_are_refused(report, tmp_path, change):
    with pytest.raises(ValueError, match="`verification` must be of the bundle of the page"):
        page_of(TESTDATA, tmp_path, verification=dataclasses.replace(report, **change))
    bench = dataclasses.replace(BENCH, rows=(dataclasses.replace(ROW, **change),))
    with pytest.raises(ValueError, match="`bench` must be of the bundle of the page"):
        page_of(TESTDATA, tmp_path, verification=report, bench=bench)
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_written_whole_and_alone(testdata, tmp_path, report):
    before = contents(testdata)
    path = tmp_path / "new" / "folder" / "report.html"
    for _ in range(2):
        assert write_report(testdata, path, verification=report, bench=BENCH) == path
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert contents(testdata) == before


@pytest.mark.parametrize(
    ("name", "message"), [("bundle", "must be a file"), ("bundle/report.html", "must be outside of the bundle")]
)
def test_a_place_where_no_page_may_stand_is_refused(testdata, tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        write_report(testdata, tmp_path / name)


def test_a_damaged_bundle_has_no_page(testdata, tmp_path):
    (testdata / MODEL_FILE).write_bytes(b"swapped")
    with pytest.raises(errors.BundleError, match="damaged"):
        write_report(testdata, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_equal_reports_make_equal_pages(sound, report, tmp_path):
    assert page_of(TESTDATA, tmp_path, verification=report).source == sound.source


def test_braces_in_a_page_are_text():
    assert "<p>{title}</p>" in page("{body}", element("p", "{title}"))
