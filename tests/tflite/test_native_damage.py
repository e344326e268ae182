"""The native runner where it must give up: exit code 2, and one readable line on stderr."""

import hashlib
import shutil
import subprocess

import pytest

from tests.support.bundles import GOLDEN_INPUT, GOLDEN_OUTPUT, MODEL_FILE, TESTDATA, edit_manifest, rewrite
from tests.support.native_runners import NATIVE_SHA256, build_native, native, reason_of


@pytest.fixture(scope="session", autouse=True)
def _built():
    build_native()


def _deep(directory):
    (directory / "model.json").write_text("[" * 1_000_000)


def _truncated(size):
    return lambda d: rewrite(d, MODEL_FILE, (d / MODEL_FILE).read_bytes()[:size])


def _escape(directory):
    (directory.parent / "x").write_bytes(b"x")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    edit_manifest(directory, lambda manifest: manifest["files"].update({"../x": entry}))


def _flipped(name):
    def flip(directory):
        data = bytearray((directory / name).read_bytes())
        data[-1] ^= 1
        (directory / name).write_bytes(data)

    return flip


def _edited(edit):
    return lambda directory: edit_manifest(directory, edit)


def _tensor(side, **changes):
    return _edited(lambda manifest: manifest["signatures"][0][side][0].update(changes))


def _huge(manifest):
    manifest["signatures"][0]["inputs"][0]["shape"] = [1, 2**31 - 1, 2**31 - 1, 2**31 - 1]
    manifest["signatures"][0]["states"] = [{"input": "image", "output": "output"}]


DAMAGE = {
    "a flipped byte of the model": (_flipped(MODEL_FILE), "model.tflite is damaged"),
    "a flipped byte of a golden file": (_flipped(GOLDEN_INPUT), "input.image.bin is damaged"),
    "a truncated model of the right hash": (_truncated(1000), "LiteRT must read model.tflite. Received: status"),
    "a model of 4 bytes": (lambda d: rewrite(d, MODEL_FILE, b"TFL3"), "LiteRT must read model.tflite"),
    "a missing golden file": (lambda d: (d / GOLDEN_OUTPUT).unlink(), "No such file"),
    "a short golden file": (lambda d: rewrite(d, GOLDEN_OUTPUT, b"\0" * 4), "must hold 16 samples"),
    "a folder for a file": (lambda d: ((d / GOLDEN_OUTPUT).unlink(), (d / GOLDEN_OUTPUT).mkdir()), "A file is wanted"),
    "malformed JSON": (lambda d: (d / "model.json").write_text("{\n\n"), "is not what bundle.schema.json defines"),
    "deep JSON": (_deep, "is not what bundle.schema.json defines"),
    "no manifest": (lambda d: (d / "model.json").unlink(), "No such file"),
    "no object": (lambda d: (d / "model.json").write_text("[]"), "format_version must be 2"),
    "a missing key": (_edited(lambda m: m.pop("files")), "must have the key files"),
    "another version": (_edited(lambda m: m.update(format_version=3)), "must be 2. Received: 3."),
    "a changed manifest": (_edited(lambda m: m.update(manifest_sha256="1" * 64)), "model.json is damaged"),
    "no signatures": (_edited(lambda m: m.update(signatures=[])), "at least one signature"),
    "files in a list": (_edited(lambda m: m.update(files=[])), "must list model.tflite"),
    "a scale of 0": (_tensor("outputs", scale=0.0), "A scale must be > 0. Received: 0.0 for output."),
    "a wrong shape": (_tensor("inputs", shape=[1, 4, 16, 1]), "image must have the type and shape"),
    "a shape of another rank": (_tensor("inputs", shape=[1, 64]), "image must have the type and shape"),
    "a shape that fits no memory": (_edited(_huge), "fit into memory"),
    "a size of 0": (_tensor("inputs", shape=[1, 8, 0, 1]), "sizes >= 1"),
    "another type": (_tensor("inputs", dtype="int8"), "image must have the type and shape"),
    "a type that there is not": (_tensor("inputs", dtype="float8"), "Received: float8."),
    "another name": (_tensor("outputs", name="other"), "the inputs and outputs that model.json names"),
    "another signature": (_edited(lambda m: m["signatures"][0].update(name="other")), "must have the signature other"),
    "a path that leaves the bundle": (_escape, "Received: ../x."),
    "golden values without a hash": (_edited(lambda m: m["files"].pop(GOLDEN_OUTPUT)), "must have the hash of"),
    "a name of two lines": (_tensor("outputs", name="a\nb", scale=-1.0), "Received: -1.0 for a b."),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_exit_code_2_and_one_line(testdata, damage, message):
    damage(testdata)
    reason = reason_of(native(testdata))
    assert reason.startswith(f"run: cannot run {testdata}: ")
    assert message in reason


def test_flipped_bytes_of_the_manifest_are_found(testdata):
    path = testdata / "model.json"
    content = path.read_bytes()
    for place in range(0, len(content), 41):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        reason_of(native(testdata))


@pytest.mark.parametrize(
    "arguments",
    [(), ("--repeat", "3"), (TESTDATA, "--repeat"), (TESTDATA, TESTDATA), (TESTDATA, "--loud"), ("no such folder",)]
    + [(TESTDATA, "--repeat", count) for count in ("0", "-1", "many", "3x", "", "99999999999")],
)
def test_a_wrong_call_is_exit_code_2_and_one_line(arguments):
    reason_of(native(*arguments))


def test_outputs_that_cannot_be_written_are_exit_code_2(tmp_path):
    (tmp_path / "file").touch()
    reason_of(native(TESTDATA, "--outputs", tmp_path / "file"))


def test_the_library_of_another_release_is_refused_before_it_is_built(tmp_path):
    library = shutil.copy(NATIVE_SHA256, tmp_path / "libLiteRt.so")
    command = ["cmake", "-S", "tflite/native", "-B", tmp_path / "build", f"-DLITERT_LIBRARY={library}"]
    for version in ("2.2.0", ""):
        result = subprocess.run([*command, f"-DLITERT_VERSION={version}"], capture_output=True, text=True, check=False)
        assert result.returncode != 0
        assert f"LiteRT must be 2.3.  Received: '{version}'" in " ".join(result.stderr.split("\n"))
