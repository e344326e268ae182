"""The page and inputs of other numbers than pixels of 0 to 1: pixels of other ranges, sound, numbers of any kind."""

import io
import wave

import numpy as np
import pytest

from keras_notes.bundle import open_bundle as read_bundle
from tests.support.web_pages import PHONE, draw, in_node, last, new_page, open_bundle, wait_until
from tests.tflite.test_web import fits

# One product in another order.
FLOAT32_ROUNDING = 1e-5
# Opus and other codecs aside: 16 bits of a recording, resampled by nobody.
INT16_STEP = 2 / 32768


def test_pixels_are_scaled_as_the_manifest_says(page, opened):
    bundle = opened("bytes")
    (signature,) = read_bundle(bundle).manifest.signatures
    assert signature.inputs[0].range == (0.0, 249.0)
    assert page.input_value("select") == "0"
    assert page.text_content("option") == "0 to 255"
    draw(page)
    result = last(page)
    assert result["input"].max() == 255.0
    np.testing.assert_allclose(result["output"], [result["input"].mean() / 255], rtol=FLOAT32_ROUNDING)
    page.select_option("select", label="0 to 1")
    wait_until(page, "Math.max(...kerasNotes.last.input) === 1")


RANGES = [
    ({"range": [0.0, 0.93]}, "float32", [0, 1]),
    ({"range": [0, 255]}, "float32", [0, 255]),
    ({"range": [3.0, 231.5]}, "float32", [0, 255]),
    ({"range": [0.0, 16.0]}, "float32", [0, 16.0]),
    ({"range": [-1.0, 0.98]}, "float32", [-1, 1]),
    ({"range": [-128.0, 127.0]}, "float32", [-128, 127]),
    ({"range": [-2.12, 2.64]}, "float32", [-2.12, 2.64]),
    ({"range": [-0.42, 2.82]}, "float32", [-0.42, 2.82]),
    ({"scale": 1 / 255, "zero_point": -128}, "float32", [0, 1]),
    ({"scale": 1.0, "zero_point": -128}, "float32", [0, 255]),
    ({}, "float32", [0, 1]),
    ({}, "uint8", [0, 255]),
]


def test_each_range_has_its_pixels():
    cases = [
        {"dtype": dtype, "golden_dtype": dtype, "shape": [1, 8, 8, 1], "scale": None, "zero_point": None, **entry}
        for entry, dtype, _ in RANGES
    ]
    program = """
import { pixelRanges } from "./ranges.js";
console.log(JSON.stringify(argument.map((tensor) => pixelRanges(tensor, [0, 1, 2])[0])));
"""
    for (entry, dtype, expected), actual in zip(RANGES, in_node(program, cases), strict=True):
        assert actual == pytest.approx(expected), (entry, dtype)


def test_a_keyword_spotter_plays_its_samples_and_takes_numbers(page, opened, tmp_path):
    bundle = read_bundle(opened("keywords"))
    (signature,) = bundle.manifest.signatures
    inputs, outputs = bundle.golden(signature)
    assert page.get_attribute("html", "data-ready") == "sound"
    assert page.query_selector(".drawing") is None
    wait_until(page, "kerasNotes.last !== null")
    np.testing.assert_array_equal(last(page)["input"], inputs["spectrogram"][0].ravel())
    page.click("button:has-text('Sample')")
    wait_until(page, f"kerasNotes.last.input[0] === {float(inputs['spectrogram'][1].ravel()[0])!r}")
    (values,) = outputs.values()
    np.testing.assert_allclose(last(page)["output"], values[1], rtol=FLOAT32_ROUNDING, atol=FLOAT32_ROUNDING)
    file = tmp_path / "frames.csv"
    np.savetxt(file, inputs["spectrogram"][3, ..., 0], delimiter=",")
    page.set_input_files("input[accept^='.csv']", file)
    wait_until(page, f"kerasNotes.last.input[0] === {float(inputs['spectrogram'][3].ravel()[0])!r}")
    file.write_text("1, 2")
    page.set_input_files("input[accept^='.csv']", file)
    page.wait_for_selector("#alert:visible")
    assert "spectrogram must be 240 numbers with commas between. Received: 2 numbers." in page.text_content("#alert")


def test_a_recording_is_played_through_a_model_of_sound(page, opened, tmp_path):
    opened("wave")
    samples = (np.sin(np.arange(8000) / 7.0) * 0.5 * 32767).astype("<i2")
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 8000, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    (tmp_path / "tone.wav").write_bytes(content.getvalue())
    page.set_input_files("input[accept='audio/*']", tmp_path / "tone.wav")
    expected = samples / 32768
    wait_until(page, f"Math.abs(kerasNotes.last.input[10] - {expected[10]}) < {INT16_STEP}")
    np.testing.assert_allclose(last(page)["input"], expected, atol=INT16_STEP)
    np.testing.assert_allclose(last(page)["output"], [np.square(expected).mean()], rtol=1e-3)


def test_any_other_inputs_are_numbers_to_type(page, opened):
    opened("pair")
    wait_until(page, "kerasNotes.last !== null")
    assert page.input_value("textarea >> nth=0") == "0, 1, 2"
    assert last(page)["output"].tolist() == [6.0]
    page.fill("textarea >> nth=1", "10, 20")
    page.dispatch_event("textarea >> nth=1", "change")
    wait_until(page, "kerasNotes.last.output[0] === 33")
    assert page.text_content(".numbers") == "33"


@pytest.mark.parametrize("name", ["bytes", "keywords", "wave", "pair"])
def test_the_views_of_numbers_fit_a_small_phone(browser, address, web_bundle, name):
    with new_page(browser, viewport=PHONE, is_mobile=True, has_touch=True) as page:
        web_bundle(name)
        open_bundle(page, address, name)
        fits(page)
