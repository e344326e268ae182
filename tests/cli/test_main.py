"""The command line: what it prints, its exit codes, and errors on a single line of stderr."""

import json
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes import conversion
from keras_notes._litert import client as tflite_process
from keras_notes._litert.metadata import DESCRIPTION
from keras_notes.bundle import Candidate, Choice, open_bundle
from keras_notes.cli import _main, main
from tests.support.bundles import (
    DEQUANTIZE,
    GOLDEN_OUTPUT,
    LABELS,
    MODEL_FILE,
    QUANTIZE,
    TESTDATA,
    append_operator,
    bars,
    contents,
    drawn_file,
    edit_manifest,
    error_lines,
    output_lsb,
    rewrite,
    rewrite_golden,
)

FLOAT, INTEGER = ("ADD", False, (0,), (0,)), ("ADD", False, (1,), (1,))


@pytest.fixture(scope="module")
def files(net, tmp_path_factory):
    """The files that a user has: the trained model, calibration samples, test samples and labels."""
    directory = tmp_path_factory.mktemp("files")
    net.save(directory / "net.keras")
    np.save(directory / "calibration.npy", bars(100, seed=1)[0])
    x, y = bars(50, seed=3)
    np.save(directory / "x.npy", x)
    np.save(directory / "y.npy", y)
    (directory / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (directory / "empty.npy").write_bytes(b"")
    (directory / "text.npy").write_text("text")
    archive = (directory / "net.keras").read_bytes()
    (directory / "cut.keras").write_bytes(archive[:-100])
    flipped = bytearray(archive)
    flipped[len(flipped) // 2] ^= 255
    (directory / "flipped.keras").write_bytes(flipped)
    return directory


def _run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _cannot(capsys, *arguments):
    """The one line on stderr of a command that cannot do what it is asked."""
    code, out, err = _run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.endswith("\n")
    (line,) = error_lines(err)
    assert line.startswith(f"keras-notes {arguments[0]}: ")
    return line


def test_a_model_is_converted_verified_and_replaced(capsys, files, tmp_path):
    target = tmp_path / "bundle"
    code, out, err = _run(capsys, "convert", files / "net.keras", "-o", target, "--recipe", "float32")
    assert (code, error_lines(err)) == (0, [])
    assert "bars: PASS\n" in out
    assert f"written to {target}\n" in out
    assert open_bundle(target).manifest.recipe == "float32"

    again = ("convert", files / "net.keras", "-o", target, "--calibration", files / "calibration.npy")
    assert "must not exist yet" in _cannot(capsys, *again)
    golden = ("--golden", files / "x.npy", "--labels", files / "labels.txt", "--edges", "int8")
    code, out, err = _run(capsys, *again, *golden, "--input-range", -3, 3, "--overwrite")
    assert (code, error_lines(err)) == (0, [])
    manifest = open_bundle(target).manifest
    assert manifest.signatures[0].inputs[0].scale == pytest.approx(6 / 255)
    assert (manifest.recipe, manifest.edges, manifest.labels) == ("static_int8", "int8", LABELS)
    assert manifest.signatures[0].golden_samples == 50
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["net.keras"], "`calibration` must hold typical inputs"),
        (["net.keras", "--recipe", "int2"], "`recipe` must be one of"),
        (["net.keras", "--calibration", "calibration.npy", "--edges", "int2"], "`edges` must be one of"),
        (["net.keras", "--calibration", "y.npy"], "`calibration` must have the shape"),
        (["net.keras", "--calibration", "missing.npy"], "No such file"),
        (["net.keras", "--calibration", "text.npy"], "text.npy"),
        (["net.keras", "--calibration", "empty.npy"], "empty.npy"),
        (["net.keras", "--recipe", "float32", "--labels", "missing.txt"], "No such file"),
        (["missing.keras", "--recipe", "float32"], "missing.keras"),
        (["cut.keras", "--recipe", "float32"], "cut.keras"),
        (["flipped.keras", "--recipe", "float32"], "flipped.keras"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_exit_code_2(capsys, files, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    assert message in _cannot(capsys, "convert", *arguments, "-o", tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_the_target_is_checked_before_the_model_is_loaded(capsys, testdata):
    before = contents(testdata)
    assert "must not exist yet" in _cannot(capsys, "convert", "missing.keras", "-o", testdata)
    assert contents(testdata) == before


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_verify_prints_a_page(capsys, kernels):
    code, out, _ = _run(capsys, "verify", TESTDATA, "--kernels", kernels)
    assert code == 0
    assert out.startswith("bars: PASS\n")
    assert f"with {kernels} kernels, 16 golden samples" in out


def test_verify_prints_json(capsys):
    code, out, _ = _run(capsys, "verify", TESTDATA, "--json")
    report = json.loads(out)
    assert (code, report["ok"], report["name"], report["failures"]) == (0, True, "bars", [])


def test_verify_measures_the_accuracy(capsys, files):
    code, out, _ = _run(capsys, "verify", TESTDATA, "-x", files / "x.npy", "-y", files / "y.npy", "--json")
    report = json.loads(out)
    assert (code, report["accuracy_samples"]) == (0, 50)
    assert report["accuracy"] > 0.9


def _shift_golden(directory):
    shift = 2 * output_lsb(open_bundle(directory))
    rewrite_golden(directory, lambda values: values + shift)


def test_a_bundle_that_is_not_equal_is_exit_code_1(capsys, testdata):
    _shift_golden(testdata)
    code, out, err = _run(capsys, "verify", testdata)
    assert (code, error_lines(err)) == (1, [])
    assert out.startswith("bars: FAIL\n")
    assert "FAILED: the mean error of the output 'serving_default/output' must be at most 1 LSB" in out


def test_a_bundle_that_is_not_equal_is_told_in_json_where_json_is_asked_for(capsys, testdata):
    _shift_golden(testdata)
    code, out, _ = _run(capsys, "verify", testdata, "--json")
    assert code == 1
    assert json.loads(out)["ok"] is False


def _flip_a_byte(directory):
    data = bytearray((directory / MODEL_FILE).read_bytes())
    data[100] ^= 1
    (directory / MODEL_FILE).write_bytes(data)


DAMAGE = {
    "a flipped byte": (_flip_a_byte, "damaged: model.tflite must have the SHA-256"),
    "a missing file": (lambda d: (d / GOLDEN_OUTPUT).unlink(), f"incomplete: {GOLDEN_OUTPUT} is missing"),
    "no manifest": (lambda d: (d / "model.json").unlink(), "must hold model.json"),
    "malformed JSON": (lambda d: (d / "model.json").write_text("{\n\n"), "must be JSON"),
    "a missing key": (lambda d: edit_manifest(d, lambda m: m.pop("recipe")), "does not follow the bundle schema"),
    "another version": (lambda d: edit_manifest(d, lambda m: m.update(format_version=3)), "must have format_version 2"),
    "a path that leaves it": (
        lambda d: edit_manifest(d, lambda m: m["files"].update({"../x": m["files"][GOLDEN_OUTPUT]})),
        "does not follow the bundle schema: '../x'",
    ),
    "a model that is none": (lambda d: rewrite(d, MODEL_FILE, (d / MODEL_FILE).read_bytes()[:1000]), "model.tflite"),
}


@pytest.mark.parametrize("command", ["verify", "inspect"])
@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_bundle_is_one_line_and_exit_code_2(capsys, testdata, command, damage, message):
    damage(testdata)
    assert message in _cannot(capsys, command, testdata)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-x", "x.npy"], "`-x` and `-y` must be given together"),
        (["-x", "x.npy", "-y", "missing.npy"], "No such file"),
        (["-x", "y.npy", "-y", "y.npy"], "`x` must have the shape"),
        (["--kernels", "gpu"], "`kernels` must be one of"),
    ],
)
def test_verify_names_a_wrong_argument(capsys, files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    assert message in _cannot(capsys, "verify", TESTDATA, *arguments)


def test_convert_by_auto_prints_the_table_and_inspect_repeats_it(capsys, files, tmp_path):
    options = ["--calibration", files / "calibration.npy", "-x", files / "x.npy", "-y", files / "y.npy"]
    code, out, _ = _run(
        capsys, "convert", files / "net.keras", "-o", tmp_path / "bundle", "--recipe", "auto", *options, "--prefer",
        "latency", "--accuracy-budget", "0.5",
    )  # fmt: skip
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("Least latency with a loss of at most 0.5; 50 samples, on which the trained model has")
    (taken,) = (line for line in lines if line.startswith("* "))
    code, out, _ = _run(capsys, "inspect", tmp_path / "bundle")
    assert code == 0
    assert taken in out.splitlines()


def test_json_of_auto_has_the_candidates(capsys, files, tmp_path, monkeypatch, converted):
    choice = Choice(0.5, "bytes", None, 32, (Candidate("float32", "xnnpack", 9, 0.1, None, 0.0, ""),), chosen=0)
    monkeypatch.setattr(conversion, "convert", lambda *_, **__: converted("float32"))
    monkeypatch.setattr(_main, "read_choice", lambda _: choice)
    code, out, _ = _run(capsys, "convert", files / "net.keras", "-o", tmp_path / "bundle", "--recipe", "auto", "--json")
    assert code == 0
    assert json.loads(out)["choice"] == json.loads(json.dumps(choice.to_dict()))
    assert json.loads(out)["recipe"] == "float32"


def test_inspect_says_what_a_bundle_holds(capsys):
    code, out, _ = _run(capsys, "inspect", TESTDATA)
    bundle = open_bundle(TESTDATA)
    assert code == 0
    for line in (
        f"bars: recipe static_int8, edges float32, {bundle.model_bytes} bytes",
        "signature serving_default, 16 golden samples",
        f"  output output: float32 [1, 4], 1 LSB = {output_lsb(bundle):.6g}, zero point 3",
        "in floating point: none",
        f"labels: {', '.join(LABELS)}",
        "accuracy_reference: 0.996",
    ):
        assert line in out.splitlines()


def test_inspect_lists_no_operator_of_a_file_that_is_all_floating_point(capsys, converted):
    bundle = converted("float16")
    for path in (bundle.directory, bundle.model_path):
        code, out, _ = _run(capsys, "inspect", path)
        assert (code, "DEQUANTIZE" in out) == (0, True)
        assert "in floating point" not in out


@pytest.mark.parametrize(
    ("operators", "expected"), [((FLOAT, INTEGER), ["in floating point: ADD block/a float32"]), ((FLOAT,), [])]
)
def test_inspect_lists_the_operators_in_floating_point_of_a_mixed_file(capsys, monkeypatch, operators, expected):
    monkeypatch.setattr(tflite_process, "describe", lambda path: drawn_file(QUANTIZE, *operators, DEQUANTIZE))
    code, out, _ = _run(capsys, "inspect", TESTDATA / MODEL_FILE)
    lines = [line for line in out.splitlines() if line.startswith("in floating point")]
    assert (code, lines) == (0, expected)


def test_inspect_prints_the_manifest(capsys):
    code, out, _ = _run(capsys, "inspect", TESTDATA, "--json")
    assert code == 0
    assert out == (TESTDATA / "model.json").read_text()


def test_a_command_that_is_none_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["deploy"])
    assert caught.value.code == 2
    assert "invalid choice: 'deploy'" in capsys.readouterr().err


def test_it_is_a_program(tmp_path):
    program = "import sys; from keras_notes.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "verify", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = error_lines(result.stderr)
    assert line.startswith("keras-notes verify: A bundle must hold model.json. Received: ")


def test_the_program_is_installed_as_keras_notes():
    (script,) = entry_points(group="console_scripts", name="keras-notes")
    assert script.load() is main


def test_a_tflite_file_tells_what_it_carries(capsys, files):
    code, out, _ = _run(capsys, "inspect", TESTDATA / MODEL_FILE)
    assert code == 0
    assert "made by keras_notes: name bars, recipe static_int8, edges float32; labels: ['row'," in out
    assert "signature serving_default: image -> output" in out
    code, out, _ = _run(capsys, "inspect", TESTDATA / MODEL_FILE, "--json")
    assert json.loads(out)["description"]["recipe"] == "static_int8"
    assert "must be a .tflite file" in _cannot(capsys, "inspect", files / "text.npy")


@pytest.mark.parametrize("name", ["QUANTIZE", "DEQUANTIZE", "CAST"])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [([], []), ([0], []), ([], [0]), ([0, 0], [0]), ([-1], [0]), ([0], [-1])]
)
def test_inspect_refuses_a_file_with_a_damaged_edge_operator(capsys, tmp_path, name, inputs, outputs):
    model = flatbuffer_utils.read_model(str(TESTDATA / MODEL_FILE))
    append_operator(model, name, inputs, outputs)
    flatbuffer_utils.write_model(model, str(tmp_path / "damaged.tflite"))
    assert "must be a .tflite file. Received: IndexError" in _cannot(capsys, "inspect", tmp_path / "damaged.tflite")


def test_inspect_refuses_a_description_nested_too_deeply(capsys, tmp_path):
    model = flatbuffer_utils.read_model(str(TESTDATA / MODEL_FILE))
    (entry,) = (entry for entry in model.metadata if entry.name.decode() == DESCRIPTION)
    model.buffers[entry.buffer].data = np.frombuffer(b"[" * 100_000, "uint8")
    flatbuffer_utils.write_model(model, str(tmp_path / "damaged.tflite"))
    assert "must be JSON. Received: " in _cannot(capsys, "inspect", tmp_path / "damaged.tflite")


def test_inspect_debug_shows_the_error_of_each_tensor(capsys):
    code, out, _ = _run(capsys, "inspect", TESTDATA, "--debug")
    assert code == 0
    assert "conv2d/Relu" in out
    assert "first tensor below 10 dB: none" in out
    code, out, _ = _run(capsys, "inspect", TESTDATA, "--debug", "--json")
    assert {"name", "scale", "max_error"} <= set(json.loads(out)[0])


def test_bench_measures_one_and_compares_two(capsys):
    few = ("--repeat", "5", "--threads", "1")
    code, out, _ = _run(capsys, "bench", TESTDATA, *few, "--json")
    assert code == 0
    assert json.loads(out)
    code, out, _ = _run(capsys, "bench", TESTDATA, TESTDATA, *few)
    assert code == 0
    assert "A/B with threads=1: " in out
    assert "`--threads` must be numbers and commas. Received: 'two'" in _cannot(
        capsys, "bench", TESTDATA, "--threads", "two"
    )


def test_report_writes_a_page_also_of_what_is_not_equal(capsys, testdata, tmp_path):
    code, _, _ = _run(capsys, "report", testdata, "-o", tmp_path / "good.html")
    assert code == 0
    assert "</html>" in (tmp_path / "good.html").read_text()
    _shift_golden(testdata)
    code, out, _ = _run(capsys, "report", testdata, "-o", tmp_path / "bad.html")
    assert (code, "FAIL" in out) == (1, True)
    assert "FAIL" in (tmp_path / "bad.html").read_text()


def test_a_model_with_code_in_it_is_refused(capsys, tmp_path):
    import keras

    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / "lambda.keras")
    line = _cannot(capsys, "convert", tmp_path / "lambda.keras", "-o", tmp_path / "bundle", "--recipe", "float32")
    assert "unsafe" in line.lower() or "safe" in line
    assert "--trust MODULE" in line
    assert not (tmp_path / "bundle").exists()


_MODULE = """
import keras

@keras.saving.register_keras_serializable(package="own")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x

def build():
    return keras.Sequential([keras.Input((3,), name="x"), Doubled()], name="own")
"""


def test_a_custom_layer_is_loaded_from_a_trusted_module_or_built_by_one(tmp_path):
    (tmp_path / "own_layers.py").write_text(_MODULE)
    script = "import own_layers; own_layers.build().save('own.keras')"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)

    def convert(*arguments):
        command = [sys.executable, "-m", "keras_notes", "convert", *arguments, "--recipe", "float32"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    refused = convert("own.keras", "-o", "a")
    assert (refused.returncode, "--trust MODULE" in refused.stderr) == (2, True)
    for arguments in (("own.keras", "-o", "b", "--trust", "own_layers"), ("own_layers:build", "-o", "c")):
        done = convert(*arguments)
        assert done.returncode == 0, done.stderr[-500:]
        assert "own: PASS" in done.stdout


def test_a_saved_model_is_converted(capsys, files, net, tmp_path):
    net.export(str(tmp_path / "saved"), verbose=False)
    golden = ("--golden", files / "x.npy", "--recipe", "float32")
    code, out, err = _run(capsys, "convert", tmp_path / "saved", "-o", tmp_path / "bundle", *golden)
    assert code == 0, err
    assert "saved: PASS" in out
    (tmp_path / "empty").mkdir()
    assert "without saved_model.pb" in _cannot(capsys, "convert", tmp_path / "empty", "-o", tmp_path / "other")


def test_layers_have_recipes_of_their_own(capsys, files, tmp_path):
    options = ("--calibration", files / "calibration.npy", "--layer", "dense*=float32", "--json")
    code, out, err = _run(capsys, "convert", files / "net.keras", "-o", tmp_path / "bundle", *options)
    assert code == 0, err
    assert json.loads(out)["float_islands"][0].startswith("FULLY_CONNECTED dense")
    assert "`--layer` must be PATTERN=RECIPE. Received: 'dense'" in _cannot(
        capsys, "convert", files / "net.keras", "-o", tmp_path / "other", "--layer", "dense"
    )


def test_the_shell_completes(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert ended.value.code == 0
    assert "static_int8" not in (script := capsys.readouterr().out)
    assert "convert" in script
