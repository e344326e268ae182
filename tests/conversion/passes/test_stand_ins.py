"""Functions of one tensor in integer files: each within a step of its function, and the very integers of training."""

import math

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

import keras_notes as kn
from keras_notes._litert.reader import read_tflite
from keras_notes.compression import quantize_aware

SIZE = 256
# Not symmetric, so that the zero point is not 0; wider than every kink of the functions.
X = np.linspace(-3.9, 4.3, 64 * SIZE, dtype="float32").reshape(64, SIZE)
ACTIVATIONS = (
    "celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu",
    "log_sigmoid", "mish", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus",
    "sparse_sigmoid", "squareplus", "tanh", "tanh_shrink",
)  # fmt: skip
LAYERS = {
    "ELU": lambda: layers.ELU(0.5),
    "LeakyReLU": lambda: layers.LeakyReLU(negative_slope=0.01),
    "PReLU": lambda: layers.PReLU(alpha_initializer=keras.initializers.RandomUniform(-0.5, 1.5, seed=0)),
    "ReLU with all arguments": lambda: layers.ReLU(max_value=3, negative_slope=0.1, threshold=0.5),
    "ReLU up to 1": lambda: layers.ReLU(max_value=1.0),
}
OPERATIONS = {
    "abs": ops.abs,
    "ceil": ops.ceil,
    "clip": lambda x: ops.clip(x, -1.5, 0.5),
    "clip to 1": lambda x: ops.clip(x, -1, 1),
    "cos": ops.cos,
    "exp": ops.exp,
    "expm1": ops.expm1,
    "floor": ops.floor,
    "leaky_relu": lambda x: ops.leaky_relu(x, 0.3),
    "log1p": lambda x: ops.log1p(ops.relu(x)),
    "negative": ops.negative,
    "sign": ops.sign,
    "sin": ops.sin,
    "softplus": ops.softplus,
    "sqrt": lambda x: ops.sqrt(ops.relu(x)),
    "square": ops.square,
}
FUNCTIONS = {
    **{name: layers.Activation(name) for name in ACTIVATIONS},
    **{f"ops {name}": f for name, f in OPERATIONS.items()},
}
# Steps of the output, on values that are integers of the input's grid. Half of one is the rounding of any function;
# those of several operators round once more in each: hard_sigmoid is ADD and MUL, silu LOGISTIC and MUL.
MAXIMUM_STEPS = 1.01
# The root of relu(x): RELU rounds to half of its step, which the steep root of small values makes large. Squareplus is
# MUL, ADD, SQRT, ADD and MUL, whose SQRT is not as steep.
MAXIMUM_STEPS_OF_SEVERAL = {"ops sqrt": 2.5, "squareplus": 1.5}
# int16: an interpolation that is within a step of the nearest integer. GELU is LiteRT's own kernel, 2 steps off;
# products of LOGISTIC and others round twice in 65,536ths of a range of 8; TANH is a kernel over such a range too.
MAXIMUM_STEPS_INT16 = {"gelu": 3.5, "silu": 3.0, "hard_silu": 3.0, "PReLU": 2.5, "tanh": 2.5}


def build(names) -> keras.Model:
    """Returns a model that computes each function of a row of its own, so that the converter merges none of them."""
    inputs = keras.Input((len(names), SIZE), name="x")
    functions = {**FUNCTIONS, **{name: layer() for name, layer in LAYERS.items()}}
    return keras.Model(
        inputs,
        {
            result_of(name): layers.Identity(name=result_of(name))(functions[name](inputs[:, row]))
            for row, name in enumerate(names)
        },
    )


def result_of(name: str) -> str:
    return f"result_of_{name.replace(' ', '_')}"


def rows(x: np.ndarray, model: keras.Model) -> np.ndarray:
    """Returns samples with the same values in each row."""
    return np.repeat(x[:, None], model.input_shape[1], axis=1)


def run(bundle: kn.Bundle, x: np.ndarray) -> dict[str, np.ndarray]:
    runner = Interpreter(str(bundle.model_path)).get_signature_runner()
    outputs = [runner(x=sample[None]) for sample in x]
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


def values_of_integers(bundle: kn.Bundle) -> np.ndarray:
    """Values of the input at integers of its grid: all 256, or as many of the 65,536, within the calibration data."""
    tensor = bundle.manifest.signatures[0].inputs[0]
    # A value beyond the calibration data would be clipped to the range of the function there.
    low, high = math.ceil(float(X.min()) / tensor.scale), math.floor(float(X.max()) / tensor.scale)
    steps = np.linspace(low, high, SIZE).round()
    return (steps * tensor.scale).astype("float32")[None]


def steps_off(bundle: kn.Bundle, model: keras.Model) -> dict[str, float]:
    """Returns the largest error of each output in steps of its grid, at the integers of the input."""
    x = rows(values_of_integers(bundle), model)
    actual, expected = run(bundle, x), outputs_of(model, x)
    return errors_in_steps(bundle, actual, expected)


def outputs_of(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    return {name: ops.convert_to_numpy(values) for name, values in model(x).items()}


def errors_in_steps(bundle: kn.Bundle, actual, expected) -> dict[str, float]:
    scales = {tensor.name: tensor.scale for tensor in bundle.manifest.signatures[0].outputs}
    return {name: float(np.abs(actual[name] - expected[name]).max() / scales[name]) for name in actual}


def test_int8_is_within_a_step_of_each_function(tmp_path):
    model = build([*FUNCTIONS, *LAYERS])
    bundle = kn.convert(model, tmp_path / "bundle", "static_int8", calibration=rows(X, model))
    assert read_tflite(bundle.model_path).float_operators() == ()
    steps = steps_off(bundle, model)
    allowed = {result_of(name): error for name, error in MAXIMUM_STEPS_OF_SEVERAL.items()}
    assert {name: error for name, error in steps.items() if error > allowed.get(name, MAXIMUM_STEPS)} == {}
    counts = read_tflite(bundle.model_path).operator_counts()
    # One operator each: leaky_relu as activation, layer and operation; no sum of products.
    assert (counts["LEAKY_RELU"], counts["PRELU"]) == (3, 1)


@pytest.mark.slow
def test_int16_is_within_steps_of_each_function(tmp_path):
    model = build([*FUNCTIONS, *LAYERS])
    bundle = kn.convert(model, tmp_path / "bundle", "int16x8", calibration=rows(X, model))
    steps = steps_off(bundle, model)
    allowed = {result_of(name): error for name, error in MAXIMUM_STEPS_INT16.items()}
    assert {name: error for name, error in steps.items() if error > allowed.get(name, 2.01)} == {}


def test_training_computes_the_integers_of_the_file(tmp_path):
    model = build([*FUNCTIONS, *LAYERS])
    aware = quantize_aware(model, calibration=rows(X, model))
    bundle = kn.convert(aware, tmp_path / "bundle", golden=rows(X[:2], model))
    x = rows(values_of_integers(bundle), model)
    differing = errors_in_steps(bundle, run(bundle, x), outputs_of(aware, x))
    assert {name: error for name, error in differing.items() if error > 0.01} == {}


def test_a_value_that_is_rounded_for_one_use_only_is_computed_twice(tmp_path):
    """The converter computes abs(x) once for the output abs(x) and for softsign, which takes it unrounded."""
    inputs = keras.Input((SIZE,), name="x")
    outputs = {"result_of_abs": ops.abs, "result_of_softsign": ops.softsign, "result_of_negative": ops.negative}
    model = keras.Model(inputs, {name: layers.Identity(name=name)(f(inputs)) for name, f in outputs.items()})
    aware = quantize_aware(model, calibration=X)
    bundle = kn.convert(aware, tmp_path / "bundle", golden=X[:2])
    assert read_tflite(bundle.model_path).float_operators() == ()
    differing = errors_in_steps(bundle, run(bundle, X), outputs_of(aware, X))
    assert max(differing.values()) < 0.01


def test_a_function_with_another_slope_is_noticed(tmp_path):
    """What would be wrong if the file looked up another function."""
    model, other = build(["LeakyReLU", "softplus"]), build(["ops leaky_relu", "elu"])
    bundle = kn.convert(model, tmp_path / "bundle", "static_int8", calibration=rows(X, model))
    assert max(steps_off(bundle, model).values()) < MAXIMUM_STEPS
    x = rows(values_of_integers(bundle), model)
    actual, expected = run(bundle, x), outputs_of(other, x)
    for name, changed in (("LeakyReLU", "ops leaky_relu"), ("softplus", "elu")):
        assert np.abs(actual[result_of(name)] - expected[result_of(changed)]).max() > 0.1
