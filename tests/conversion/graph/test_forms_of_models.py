"""Whatever form a model has: subclassed, with states, several signatures, any batch, norms, loops."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_notes as kn
from keras_notes import errors
from keras_notes._litert.reader import read_tflite
from keras_notes.bundle import open_bundle
from keras_notes.conversion.graph._layer_lowerings import lower_layers
from tests.support.bundles import ROOT, edit_manifest, rewrite_golden, run_device

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6, 4)).astype("float32")


def _converted(model, path, recipe, x=X, **options):
    calibration = {"calibration": x} if recipe in ("static_int8", "int16x8") else {}
    return kn.convert(model, path, recipe, golden=x[:16], **calibration, **options)


def _recurrent(layer_class, **options):
    net = [keras.Input((6, 4), name="x"), layer_class(5, name="cell", **options), layers.Dense(3)]
    return keras.Sequential(net, name="recurrent")


@pytest.mark.parametrize("layer_class", [layers.LSTM, layers.GRU, layers.SimpleRNN])
@pytest.mark.parametrize("recipe", ["dynamic_int8", "static_int8"])
def test_short_recurrent_layers_convert_in_integers(tmp_path, layer_class, recipe):
    bundle = _converted(_recurrent(layer_class), tmp_path / "bundle", recipe)
    # Six steps are fewer than two blocks of a loop: by each recipe they are written out.
    assert "WHILE" not in kn.verify(bundle).operators


@pytest.mark.parametrize("recipe", ["float32", "static_int8"])
def test_states_are_carried_from_step_to_step_on_the_device(tmp_path, recipe):
    net = [keras.Input(batch_shape=(1, 6, 4), name="x"), layers.LSTM(5, stateful=True, name="cell"), layers.Dense(3)]
    bundle = _converted(keras.Sequential(net, name="streaming"), tmp_path / "bundle", recipe)
    (signature,) = bundle.manifest.signatures
    assert [(s.input, s.output) for s in signature.states] == [
        ("cell_state_0", "cell_state_0_next"),
        ("cell_state_1", "cell_state_1_next"),
    ]
    assert kn.verify(bundle).ok
    assert run_device(bundle.directory).returncode == 0


def test_the_drift_over_a_sequence_is_told_by_quarter(tmp_path):
    keras.utils.set_random_seed(0)
    net = [keras.Input(batch_shape=(1, 6, 4), name="x"), layers.LSTM(5, stateful=True, name="cell"), layers.Dense(3)]
    bundle = _converted(keras.Sequential(net), tmp_path / "bundle", "static_int8")
    report = kn.verify(bundle)
    output = next(output for output in report.outputs if output.name == "output")
    quarters = np.array(output.rms_error_by_quarter)
    assert np.sqrt(np.square(quarters).mean()) == pytest.approx(output.rms_error)
    assert "; rms LSB by quarter of the sequence " in str(report)

    entry = next(entry for entry in bundle.manifest.signatures[0].outputs if entry.name == "output")

    def drift(values):
        steps = np.repeat([0.0, 0.0, 0.0, 2 * entry.scale], values.size // 4)
        return values + steps * (-1.0) ** np.arange(values.size)

    rewrite_golden(bundle.directory, drift, "golden/serving_default.output.output.bin")
    drifted = next(o for o in kn.verify(bundle.directory).outputs if o.name == "output").rms_error_by_quarter
    assert drifted[:3] == pytest.approx(quarters[:3])
    assert drifted[3] > 1.3 * quarters[3]


def test_a_model_without_states_has_no_drift(converted):
    assert kn.verify(converted("static_int8")).outputs[0].rms_error_by_quarter is None


def test_golden_states_after_the_first_step_are_not_looked_at(tmp_path):
    net = [keras.Input(batch_shape=(1, 6, 4), name="x"), layers.LSTM(5, stateful=True, name="cell")]
    bundle = _converted(keras.Sequential(net), tmp_path / "bundle", "float32")
    for number in (0, 1):
        path = f"golden/serving_default.input.cell_state_{number}.bin"
        rewrite_golden(bundle.directory, lambda values: np.where(np.arange(values.size) < 5, values, 9.0), path)
    assert kn.verify(bundle.directory).ok
    assert run_device(bundle.directory).returncode == 0


def test_states_that_are_not_carried_fail(tmp_path):
    net = [keras.Input(batch_shape=(1, 6, 4), name="x"), layers.LSTM(5, stateful=True, name="cell")]
    bundle = _converted(keras.Sequential(net), tmp_path / "bundle", "float32")
    edit_manifest(bundle.directory, lambda manifest: manifest["signatures"][0].update(states=[]))
    zeros = "golden/serving_default.input.cell_state_0.bin"
    rewrite_golden(bundle.directory, np.zeros_like, zeros)
    with pytest.raises(errors.VerificationError):
        kn.verify(bundle.directory)
    assert run_device(bundle.directory).returncode == 1


@pytest.mark.parametrize("recipe", ["float32", "dynamic_int8"])
def test_a_file_of_any_batch_size_is_proven_one_by_one_and_at_once(tmp_path, recipe):
    model = keras.Sequential(
        [
            keras.Input((6, 4), name="x"),
            layers.Conv1D(8, 3, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3),
        ]
    )
    bundle = _converted(model, tmp_path / "bundle", recipe, batch_size=None)
    assert bundle.manifest.batch_size is None
    assert kn.verify(bundle).ok
    assert open_bundle(bundle.directory).manifest.signatures[0].inputs[0].shape == (1, 6, 4)


def test_several_signatures_share_their_weights(tmp_path):
    tokens, memory = keras.Input((6, 4), name="tokens"), keras.Input((64,), name="memory")
    encode = keras.Model(tokens, layers.Dense(64, name="wide")(layers.Flatten()(tokens)), name="encode")
    decode = keras.Model(memory, layers.Dense(64, name="out")(memory), name="decode")
    whole = keras.Model(tokens, decode(encode(tokens)), name="whole")
    golden = {"serving_default": X[:8], "encode": X[:8], "decode": RNG.normal(size=(8, 64))}
    bundle = kn.convert(
        whole, tmp_path / "bundle", "float32", golden=golden, signatures={"encode": encode, "decode": decode}
    )
    report = kn.verify(bundle)
    assert [output.signature for output in report.outputs] == ["serving_default", "encode", "decode"]
    alone = kn.convert(whole, tmp_path / "alone", "float32", golden=X[:8])
    assert bundle.model_bytes < 1.3 * alone.model_bytes
    assert run_device(bundle.directory).returncode == 0


def test_samples_of_several_signatures_are_given_by_name(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"`golden` must be a dict with samples for each of the signatures .*'other'"):
        kn.convert(model, tmp_path / "bundle", "float32", golden=np.ones((2, 4)), signatures={"other": model})


class Scaled(keras.Model):
    """A subclassed model of two inputs and two outputs."""

    def __init__(self):
        super().__init__(name="scaled")
        self.dense = layers.Dense(3, name="inner")

    def call(self, inputs):
        hidden = self.dense(inputs["a"])
        return {"sum": hidden + inputs["b"], "hidden": hidden}


def test_a_subclassed_model_converts_by_its_samples(tmp_path):
    samples = {"a": RNG.normal(size=(40, 4)), "b": RNG.normal(size=(40, 3))}
    bundle = kn.convert(Scaled(), tmp_path / "bundle", "static_int8", calibration=samples)
    assert sorted(output.name for output in kn.verify(bundle).outputs) == ["hidden", "sum"]


@pytest.mark.parametrize(
    "norm",
    [layers.LayerNormalization(name="n"), layers.RMSNormalization(name="n"), layers.GroupNormalization(2, name="n")],
    ids=["layer", "rms", "group"],
)
def test_normalization_is_lowered_without_a_float_island_and_without_a_change(tmp_path, norm):
    model = keras.Sequential([keras.Input((6, 4), name="x"), norm, layers.Dense(3)])
    model.set_weights([w + 0.1 * RNG.normal(size=w.shape) for w in model.get_weights()])
    before = keras.ops.convert_to_numpy(norm(X))
    with lower_layers([norm], recurrent={}):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(norm(X)), before, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(norm(X)), before)
    bundle = _converted(model, tmp_path / "bundle", "static_int8")
    assert read_tflite(bundle.model_path).float_operators() == ()


@pytest.mark.parametrize("keepdims", [False, True])
def test_global_max_pooling_computes_in_integers(tmp_path, keepdims):
    pool = layers.GlobalMaxPooling1D(keepdims=keepdims, name="pool")
    model = keras.Sequential([keras.Input((6, 4), name="x"), layers.Conv1D(5, 3), pool, layers.Dense(3)])
    bundle = _converted(model, tmp_path / "bundle", "static_int8")
    report = kn.verify(bundle)
    assert "MAX_POOL_2D" in report.operators
    assert report.float_islands == ()


def test_a_conversion_leaves_no_replaced_layer_behind(tmp_path):
    model = _recurrent(layers.LSTM)
    expected = keras.ops.convert_to_numpy(model(X[:2]))
    _converted(model, tmp_path / "bundle", "static_int8")
    assert model.layers[0].unroll is False
    assert "call" not in vars(model.layers[0])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(X[:2])), expected)


_ON_ANOTHER_BACKEND = """
import json, sys
import keras, numpy as np
import keras_notes as kn
keras.utils.set_random_seed(0)
x = np.random.default_rng(0).normal(size=(40, 8)).astype("float32")
inputs = keras.Input((8,), name="x")
hidden = keras.layers.LayerNormalization()(keras.layers.Dense(8, activation="gelu")(inputs))
model = keras.Model(inputs, keras.layers.Dense(3)(hidden), name="elsewhere")
for recipe in ("float32", "static_int8"):
    ranges = {} if recipe == "float32" else {"calibration": x}
    kn.verify(kn.convert(model, sys.argv[1] + "/" + recipe, recipe, golden=x, **ranges))
class Own(keras.layers.Layer):
    def call(self, x):
        return x
try:
    kn.convert(keras.Sequential([keras.Input((8,)), Own()]), sys.argv[1] + "/own", "float32")
except kn.errors.ConversionError as error:
    print(json.dumps({"backend": keras.backend.backend(), "error": str(error)}))
"""


def test_a_model_of_another_backend_is_carried_over(tmp_path):
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-c", _ON_ANOTHER_BACKEND, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["backend"] == "jax"
    assert "Received: ['Own'], defined in the program itself. Move them to a module" in said["error"]
    assert kn.verify(tmp_path / "static_int8").ok


@pytest.mark.parametrize("activation", [layers.LeakyReLU(0.2), layers.PReLU()], ids=["leaky", "parametric"])
def test_leaky_activations_compute_in_integers(tmp_path, activation):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((6, 4), name="x"), layers.Dense(8), activation, layers.Dense(3)])
    if activation.weights:
        activation.alpha.assign(RNG.uniform(-0.5, 1.5, activation.alpha.shape))
    report = kn.verify(_converted(net, tmp_path / "int8", "static_int8"))
    assert report.float_islands == ()
    # One operator each, and one product for each Dense: a sum of x and relu(x) would double them.
    assert report.operators["FULLY_CONNECTED"] == 2
    assert {"LEAKY_RELU", "PRELU"} & set(report.operators)
    floats = kn.verify(_converted(net, tmp_path / "float32", "float32")).operators
    assert {"LEAKY_RELU", "PRELU"} & set(floats), "the float file has the operator itself"


def test_an_operation_that_belongs_to_no_layer_can_be_declared_as_the_error_says(tmp_path):
    inputs = keras.Input((6,), name="x")
    net = keras.Model(inputs, layers.Dense(3)(keras.ops.cumsum(inputs, axis=1)))
    x = RNG.normal(size=(60, 6)).astype("float32")
    with pytest.raises(
        errors.ConversionError, match=r"CUMSUM cumsum/Cumsum in floating point.*\{'cumsum': 'float32'\}"
    ):
        _converted(net, tmp_path / "bundle", "static_int8", x)
    recipe = {"default": "static_int8", "layers": {"cumsum": "float32"}}
    bundle = kn.convert(net, tmp_path / "bundle", recipe, calibration=x)
    assert kn.verify(bundle).float_islands == ("CUMSUM cumsum/Cumsum",)


@pytest.mark.parametrize("edges", ["float32", "uint8"])
def test_pixels_lead_into_integers_without_an_island(tmp_path, edges):
    pixels = RNG.integers(0, 256, (60, 6)).astype("uint8")
    inputs = keras.Input((6,), dtype="uint8", name="pixels")
    net = keras.Model(inputs, layers.Dense(3)(keras.ops.cast(inputs, "float32") / 255.0))
    bundle = kn.convert(net, tmp_path / "bundle", "static_int8", calibration=pixels, edges=edges)
    report = kn.verify(bundle)
    assert report.float_islands == ()
    assert bundle.manifest.signatures[0].inputs[0].dtype == "uint8"
    operators = read_tflite(bundle.model_path).main.operators
    assert [operator.name for operator in operators][:2] == ["CAST", "QUANTIZE"]


def test_values_that_calibration_never_saw_are_named_as_the_cause(tmp_path):
    net = keras.Sequential([keras.Input((6, 4), name="x"), layers.Flatten(), layers.Dense(3)])
    bundle = kn.convert(net, tmp_path / "bundle", "static_int8", calibration=0.3 * X, golden=X[:16])
    with pytest.raises(
        errors.VerificationError, match=r"\d+ of 48 golden values of the output 'serving_default/output' lie outside"
    ):
        kn.verify(bundle)
