"""The page of tflite/web in a browser: what it shows is what LiteRT computes in Python."""

import json
import os

import numpy as np
import pytest
from ai_edge_litert.interpreter import OpResolverType

from tests.layers.decoders import device_samples
from tests.support.bundles import (
    GOLDEN_INPUT,
    LABELS,
    MODEL_FILE,
    RUNNER,
    copied,
    edit_manifest,
    interpreter,
    run_device,
    runner_module,
)
from tests.support.tools import need
from tests.support.web_bundles import ACTIVITIES, AXES, END, PAD, SPACE, START, UNKNOWN, WINDOW, motion, tokenizer_json
from tests.support.web_pages import (
    PHONE,
    draw,
    in_node,
    install_packages,
    last,
    new_page,
    open_bundle,
    shown,
    wait_until,
)
from tests.tflite.conftest import SOURCE_LENGTH, WORDS

# One product in another order, and what comes of it through a softmax or 25 steps.
FLOAT32_ROUNDING = 1e-5
LEAST_TARGET_PX = 44
runner = runner_module()


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def computed(bundle, **inputs):
    """The outputs of LiteRT in Python, on the kernels that it takes by default."""
    return interpreter(bundle / MODEL_FILE, OpResolverType.AUTO).get_signature_runner("serving_default")(**inputs)


@pytest.mark.parametrize("name", ["int8", "uint8_edges", "float32"])
def test_a_drawing_is_classified_as_in_python(page, opened, name):
    bundle = opened(name)
    draw(page)
    pixels = last(page)["input"].astype("float32")
    assert 0.0 == pixels.min() < pixels.max() <= 1.0
    assert len(np.unique(pixels)) > 2, "edges are means of what is covered"
    (signature,) = runner.load_manifest(bundle)["signatures"]
    (image,), (output,) = signature["inputs"], signature["outputs"]
    fed = runner.quantize(pixels.reshape(1, 8, 8, 1), image)
    expected = runner.dequantize(computed(bundle, image=fed)["output"], output)[0]
    if name != "float32":
        np.testing.assert_array_equal(last(page)["output"].astype("float32"), expected)
    np.testing.assert_allclose(shown(page), softmax(expected), atol=FLOAT32_ROUNDING)
    assert page.text_content(".winner") == LABELS[expected.argmax()]


def test_samples_and_pictures_are_classified_too(page, opened, web_dist):
    bundle = opened("int8")
    page.click("text=Sample")
    wait_until(page, "kerasNotes.last !== null")
    golden = np.fromfile(bundle / GOLDEN_INPUT, "<f4")
    np.testing.assert_array_equal(last(page)["input"], golden[:64])
    page.click("text=Clear")
    assert page.text_content(".winner") == "\u2013"
    page.set_input_files("input[accept='image/*']", web_dist / "icon-192.png")
    wait_until(page, "document.querySelector('.winner').textContent !== '\u2013'")
    assert last(page)["input"].max() > 0.1
    page.set_input_files("input[accept='image/*']", web_dist / "app.js")
    page.wait_for_selector("#alert:visible")
    assert "An image must be a picture that this browser can show. Received: app.js." in page.text_content("#alert")


def test_a_recording_is_streamed_step_by_step(page, opened, tmp_path):
    bundle = opened("stream")
    rows = motion(1, seed=7)[0][0][:6]
    recording = tmp_path / "walk.csv"
    np.savetxt(recording, rows, delimiter=",", header="ax,ay,az,gx,gy,gz", comments="", fmt="%.9g")
    page.set_input_files("input[accept^='.csv']", recording)
    wait_until(page, f"kerasNotes.last && Math.abs(kerasNotes.last.input[1] - {rows[-1][1]}) < 1e-6")
    step = interpreter(bundle / MODEL_FILE, OpResolverType.AUTO).get_signature_runner("step")
    _, signature = runner.load_manifest(bundle)["signatures"]
    states = {state["input"]: np.zeros(shape_of(signature, state["input"]), "float32") for state in signature["states"]}
    (name,) = {tensor["name"] for tensor in signature["inputs"]} - set(states)
    for row in rows:
        results = step(**{name: row.reshape(1, 1, AXES), **states})
        states = {state["input"]: results[state["output"]] for state in signature["states"]}
    (output,) = set(results) - {state["output"] for state in signature["states"]}
    np.testing.assert_allclose(last(page)["output"], results[output].ravel(), atol=FLOAT32_ROUNDING)
    np.testing.assert_allclose(shown(page), softmax(results[output].ravel()), atol=FLOAT32_ROUNDING)


def shape_of(signature, name):
    return next(tensor["shape"] for tensor in signature["inputs"] if tensor["name"] == name)


def test_a_sample_is_played_and_a_wrong_recording_refused(page, opened, tmp_path):
    bundle = opened("window")
    page.click("text=Play sample")
    wait_until(page, "kerasNotes.last !== null")
    golden = np.fromfile(bundle / "golden/serving_default.output.output.bin", "<f4")
    np.testing.assert_allclose(last(page)["output"], golden[: len(ACTIVITIES)], atol=FLOAT32_ROUNDING)
    assert last(page)["input"].shape == (WINDOW * AXES,)
    recording = tmp_path / "three.csv"
    recording.write_text("1,2,3\n")
    page.set_input_files("input[accept^='.csv']", recording)
    page.wait_for_selector("#alert:visible")
    assert page.text_content("#alert").startswith("A recording must have 6 numbers a row")


def test_the_sensor_gives_g_and_radians_at_the_rate_of_the_bundle(page, opened):
    sensors = page.context.new_cdp_session(page)
    for sensor, reading in (("gyroscope", (1, 2, 3)), ("accelerometer", (4, 5, 6)), ("linear-acceleration", (0, 0, 0))):
        override = {"type": sensor, "enabled": True, "metadata": {"available": True}}
        sensors.send("Emulation.setSensorOverrideEnabled", override)
        xyz = dict(zip("xyz", reading, strict=True))
        sensors.send("Emulation.setSensorOverrideReadings", {"type": sensor, "reading": {"xyz": xyz}})
    opened("stream")
    page.click("text=Use sensor")
    wait_until(page, "kerasNotes.last !== null")
    gravity = 9.80665
    # A browser rounds its sensors: to 0.1 degrees a second and 0.1 m/s2.
    np.testing.assert_allclose(last(page)["input"], [4 / gravity, 5 / gravity, 6 / gravity, 1, 2, 3], atol=0.006)


def test_a_translation_has_the_ids_of_generate_py(page, opened, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{RUNNER.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    sources, _ = device_samples(2, seed=5)
    bundle = opened("translator")
    for source in sources:
        ids = source[source > END + 1]
        # Of a unigram vocabulary, where each word is a piece of its own.
        page.fill("textarea", "".join(WORDS[place - 4] for place in ids).replace(SPACE, " "))
        page.click("text=Translate")
        page.wait_for_selector("button.primary:enabled")
        options = ("--start", START, "--end", END, "--pad", PAD)
        result = run_device(bundle, *ids, *options, script=RUNNER.with_name("generate.py"))
        expected = json.loads(result.stdout)["ids"]
        assert last(page)["ids"].tolist() == expected
        words = [WORDS[place - 4].replace(SPACE, "") for place in expected if place > END + 1]
        assert page.text_content("output.target") == " ".join(words)
        assert f"{len(ids)} of {SOURCE_LENGTH} tokens" in page.text_content("main")
    page.fill("textarea", " ".join(["word9"] * (SOURCE_LENGTH + 1)))
    page.click("text=Translate")
    assert "A source must have 1 to 6 ids. Received: 7." in page.text_content("#alert:visible")


def test_a_tokenizer_is_read_as_it_is():
    need("node", "npm")
    install_packages()
    pieces = [SPACE + piece for piece in ("ein", "Hund", "läuft", ".", ",", "n't", "fi")]
    program = """import { tokenizerOf } from "./decoding.js";
        const tokenizer = await tokenizerOf({ json: () => argument.tokenizer });
        const ids = argument.texts.map(tokenizer.encode);
        console.log(JSON.stringify([tokenizer.special, ids, ids.map(tokenizer.decode)]));"""
    texts = ["ein Hund läuft .", "Hund , ein n't", "\N{LATIN SMALL LIGATURE FI}", "Katze", ""]
    special, ids, back = in_node(program, {"tokenizer": json.loads(tokenizer_json(pieces)), "texts": texts})
    assert special == {"pad": PAD, "start": START, "end": END}
    assert ids[:3] == [[4, 5, 6, 7], [5, 8, 4, 9], [10]]
    assert set(ids[3]) == {UNKNOWN}
    assert (ids[4], back) == ([], ["ein Hund läuft .", "Hund , ein n't", "fi", "", ""])


def test_without_a_tokenizer_ids_are_translated(page, address, mounts, web_bundle, tmp_path):
    mounts["ids"] = copied(web_bundle("translator"), tmp_path / "ids")
    edit_manifest(mounts["ids"], lambda manifest: manifest["files"].pop("tokenizer.json"))
    open_bundle(page, address, "ids")
    page.fill("textarea", "4 17, 900")
    page.click("text=Translate")
    page.wait_for_selector("button.primary:enabled")
    assert page.text_content("output.target").split() == [str(token) for token in last(page)["ids"]]
    page.fill("textarea", "four")
    assert "Ids must be whole numbers. Received: four." in page.text_content("#alert:visible")


def test_a_translation_can_be_stopped_and_left(page, address, opened):
    opened("translator")
    page.fill("textarea", "word9")
    # Pressed as soon as there is something to stop.
    page.evaluate("""() => {
        const [run, halt] = document.querySelectorAll(".actions button");
        new MutationObserver(() => halt.click()).observe(document.querySelector(".target"), {childList: true});
        run.click();
    }""")
    page.wait_for_selector("button.primary:enabled")
    wait_until(page, "kerasNotes.last !== null")
    assert len(last(page)["ids"]) <= 2
    page.click("text=Translate")
    page.click("#back")
    page.wait_for_selector("text=Open your own")
    assert page.is_hidden("#alert")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_thumb_can_use_it_on_a_small_phone(browser, address, web_bundle, scheme):
    options = {"viewport": PHONE, "is_mobile": True, "has_touch": True, "color_scheme": scheme}
    with new_page(browser, **options) as page:
        page.goto(address)
        page.wait_for_selector(".card")
        fits(page)
        for name in ("int8", "stream", "translator"):
            web_bundle(name)
            open_bundle(page, address, name)
            fits(page)


def fits(page):
    """Nothing is wider than the screen, and nothing to press is smaller than a thumb."""
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for element in page.query_selector_all("button, label.button, a"):
        box = element.bounding_box()
        if box is not None:
            assert min(box["width"], box["height"]) >= LEAST_TARGET_PX, element.text_content()
