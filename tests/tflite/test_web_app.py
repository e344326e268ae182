"""The page of tflite/web as an app: bundles of one's own, offline, installed, small."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.support.bundles import MODEL_FILE, TESTDATA, copied, edit_manifest
from tests.support.tools import need
from tests.support.web_pages import build_page, draw, new_page, open_bundle, shown, wait_until, web_module

MOST_PAGE_BYTES = 1_000_000


def zipped(directory, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in directory.rglob("*"):
            archive.write(file, f"{directory.name}/{file.relative_to(directory)}")
    return path


def test_own_bundles_are_opened_from_a_folder_and_a_zip(page, address, tmp_path):
    for picker, picked in (
        ("[webkitdirectory]", TESTDATA),
        (":not([webkitdirectory])", zipped(TESTDATA, tmp_path / "b.zip")),
    ):
        page.goto(address)
        page.set_input_files(f"input[type=file]{picker}", picked)
        page.wait_for_selector("html[data-ready=images]", state="attached")
        page.click("text=Check this bundle")
        page.wait_for_selector("#line:visible")
        assert page.text_content(".verdict").startswith("Yes: 16 samples within the tolerance, off by ")


def test_a_folder_is_dropped(page, address):
    page.goto(address)
    page.wait_for_selector("text=Open your own")
    data = {"items": [], "files": [str(TESTDATA)], "dragOperationsMask": 1}
    mouse = page.context.new_cdp_session(page)
    for event in ("dragEnter", "dragOver", "drop"):
        mouse.send("Input.dispatchDragEvent", {"type": event, "x": 100, "y": 100, "data": data})
    page.wait_for_selector("html[data-ready=images]", state="attached")
    assert page.text_content("h1") == "bars"


def test_wrong_files_are_refused_in_one_sentence(page, address, testdata, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no bundle")
    fake = tmp_path / "fake.zip"
    fake.write_text("no archive")
    empty = tmp_path / "empty.zip"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    data = bytearray((testdata / MODEL_FILE).read_bytes())
    data[100] ^= 1
    (testdata / MODEL_FILE).write_bytes(data)
    damaged = zipped(testdata, tmp_path / "damaged.zip")
    page.goto(address)
    for file, message in (
        (text, "A bundle must have a model.json. Received: notes.txt."),
        (fake, "fake.zip must be a .zip file"),
        (empty, "A bundle must have a model.json. Received: readme.txt."),
        (damaged, "model.tflite is damaged"),
    ):
        page.set_input_files("input[type=file]:not([webkitdirectory])", file)
        wait_until(page, f"document.querySelector('#alert').textContent.startsWith({json.dumps(message)})")
        assert "\n" not in page.text_content("#alert")
        assert page.is_visible("text=Open your own")


def test_it_predicts_offline_after_one_visit(browser, web_dist):
    with new_page(browser, service_workers="allow") as page:
        # Not at the root of its server, where a page that names absolute paths works, too.
        with web_module("serve").serving(web_dist, mounts={"deep": web_dist}) as root:
            address = f"{root}deep/"
            open_bundle(page, address, "bundles/bars_static_int8")
        # The server is gone.
        page.reload()
        page.wait_for_selector("html[data-ready]", state="attached")
        draw(page)
        assert shown(page).sum() == pytest.approx(1.0)
        assert int(page.get_attribute("html", "data-first-prediction-ms")) > 0
        page.click("#back")
        page.wait_for_selector("text=Open your own")
        assert page.query_selector_all(".card")
        page.goto(f"{address}?bundle=elsewhere")
        page.wait_for_selector("#alert:visible")
        assert "Open the bundle once while you are online." in page.text_content("#alert")


def rebuilt(dist):
    """The files of another build: other names of modules, another list for the service worker."""
    (runtime,) = dist.glob("runtime-*.js")
    for name in ("app.js", "sw.js", "index.html"):
        text = (dist / name).read_text().replace(runtime.stem, "runtime-other")
        (dist / name).write_text(re.sub(r"(?<=page-)[0-9a-f]{16}", lambda m: m[0][::-1], text))
    runtime.rename(dist / "runtime-other.js")
    page = (dist / "index.html").read_text()
    (dist / "index.html").write_text(page.replace("<body>", '<body id="other">'))


def test_a_new_build_is_shown_at_the_next_load_and_an_open_page_goes_on(browser, web_dist, tmp_path):
    dist = Path(shutil.copytree(web_dist, tmp_path / "dist"))
    with new_page(browser, service_workers="allow") as page, web_module("serve").serving(dist) as address:
        page.goto(address)
        wait_until(page, "navigator.serviceWorker.controller !== null")
        rebuilt(dist)
        page.evaluate("navigator.serviceWorker.getRegistration().then((found) => found.update())")
        wait_until(page, "caches.keys().then((names) => names.filter((name) => name.startsWith('page-')).length === 2)")
        wait_until(page, "navigator.serviceWorker.getRegistration().then((it) => !it.installing && !it.waiting)")
        page.click(".card")
        page.wait_for_selector("html[data-ready]", state="attached")
        assert page.query_selector("#other") is None
        page.reload()
        page.wait_for_selector("html[data-ready]", state="attached")
        assert page.query_selector("#other") is not None


def test_it_can_be_installed(page, address):
    page.goto(address)
    answer = page.context.new_cdp_session(page).send("Page.getAppManifest")
    assert answer["errors"] == []
    errors = page.context.new_cdp_session(page).send("Page.getInstallabilityErrors")["installabilityErrors"]
    # Contexts of a test are private windows, from which nothing is installed.
    assert [error["errorId"] for error in errors] == ["in-incognito"]
    manifest = json.loads(answer["data"])
    assert (manifest["start_url"], manifest["scope"], manifest["display"]) == ("./", "./", "standalone")
    assert {icon["purpose"] for icon in manifest["icons"] if "purpose" in icon} == {"any", "maskable"}
    size = """src => new Promise((done, fail) =>
        Object.assign(new Image(), {src, onerror: fail, onload() { done(this.width) }}))"""
    for icon in manifest["icons"]:
        width = page.evaluate(size, icon["src"])
        assert icon["sizes"] in ("any", f"{width}x{width}")


def test_the_page_is_small_without_model_and_runtime(web_dist):
    files = [path for path in web_dist.iterdir() if path.is_file()]
    assert {"index.html", "app.js", "app.css", "sw.js"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < MOST_PAGE_BYTES


def test_nothing_of_the_runtime_is_loaded_before_a_bundle_is_opened(page, address):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector(".card")
    page.wait_for_load_state("networkidle")
    assert not [url for url in asked if "wasm" in url or "runtime" in url]


def test_bundles_of_one_name_are_told_apart_by_their_folders(testdata, tmp_path):
    need("node", "npm")
    other = copied(testdata, tmp_path / "other")
    third = copied(testdata, tmp_path / "third")
    edit_manifest(third, lambda manifest: manifest.update(name="another"))
    build_page(tmp_path / "dist", [testdata, other, third])
    listed = json.loads((tmp_path / "dist" / "bundles" / "index.json").read_text())
    assert [bundle["name"] for bundle in listed] == ["bundle", "other", "another"]
