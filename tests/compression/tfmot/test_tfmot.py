"""TF-MOT's own scheme, in its own process: the same model goes there, and what TF-MOT made of it comes back."""

import importlib.util
import os
import sys
import tempfile

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers as L  # noqa: N812

from keras_notes._litert.runtime import quantize
from keras_notes.compression import tfmot
from keras_notes.compression.tfmot import _job

MISSING = [name for name in ("tensorflow_model_optimization", "tf_keras") if importlib.util.find_spec(name) is None]
needs_tfmot = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: pip install 'keras_notes[tfmot]'")

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, 96)
# Three classes that the sign of the mean and a stripe tell apart, so that few steps of training show.
X = (RNG.normal(size=(96, 8, 8, 1)) + (Y[:, None, None, None] - 1) * np.sign(np.arange(8) - 3.5)[:, None]).astype(
    "float32"
)
# Float32 sums in another order; TF-MOT's int8 files have been seen 2 apart on such nets.
FLOAT_TOLERANCE, LARGEST_LSB, SHARE_WITHIN_ONE = 1e-5, 3, 0.99


def net() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inputs)))
    x = L.Add()([x, L.DepthwiseConv2D(3, padding="same", name="depthwise")(x)])
    x = L.Dropout(0.1)(L.Flatten()(L.MaxPooling2D()(x)))
    return keras.Model(inputs, L.Dense(3, name="head")(x), name="net")


def small(*middle: keras.Layer, name: str = "net") -> keras.Model:
    return keras.Sequential([keras.Input((6,)), *middle, L.Dense(3, name="head")], name=name)


SMALL_X = X[:, 0, :6, 0]


def zoo() -> keras.Model:
    """Layers that TF-MOT prunes and clusters, with settings that Keras 3 and Keras 2 write differently."""
    image, steps, ids = keras.Input((8, 8, 4)), keras.Input((6, 3), name="steps"), keras.Input((6,), dtype="int32")
    x = L.Conv2D(8, 3, strides=2, activation="gelu", kernel_regularizer="l2")(L.ZeroPadding2D(((1, 0), (0, 1)))(image))
    x = L.BatchNormalization(gamma_constraint="non_neg")(L.LeakyReLU(0.1)(x))
    x = L.SeparableConv2D(8, 3, activation="silu")(L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x))
    x = L.ReLU(6.0, negative_slope=0.1)(L.Conv2DTranspose(4, 3, strides=2, name="transposed")(x))
    x = L.UpSampling2D(interpolation="bilinear")(L.AveragePooling2D(2)(L.Cropping2D(1)(x)))
    x = L.Flatten()(L.GlobalAveragePooling2D(keepdims=True)(L.SpatialDropout2D(0.1)(x)))
    y = L.LSTM(8, return_sequences=True, name="lstm")(L.Conv1D(8, 3, padding="causal", activation="elu")(steps))
    y = L.Reshape((6, 6))(L.Permute((2, 1))(L.LayerNormalization()(L.Dense(6)(y))))
    y = L.GlobalMaxPooling1D()(L.Concatenate()([y, L.Embedding(10, 6)(ids)]))
    y = L.Dense(6, activation="tanh", name="frozen", trainable=False)(L.Softmax()(y))
    z = L.Average()([L.Multiply()([L.Dense(6)(x), y]), L.Activation("softplus")(y)])
    z = L.GaussianNoise(0.1)(L.Dropout(0.1, seed=3)(L.Subtract()([L.Maximum()([z, y]), z])))
    return keras.Model([image, steps, ids], L.Dense(3, name="head")(z), name="zoo")


def zoo_samples() -> list[np.ndarray]:
    return [RNG.normal(size=(96, 8, 8, 4)), RNG.normal(size=(96, 6, 3)), RNG.integers(0, 10, (96, 6))]


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    return {one.path: keras.ops.convert_to_numpy(one) for one in model.trainable_weights if "kernel" in one.path}


def same_weights(model: keras.Model, before: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(model.get_weights(), before, strict=True))


def int8_outputs(file: bytes, x: np.ndarray) -> tuple[np.ndarray, float, int]:
    """What a file gives, in integers, with the scale and zero point of them."""
    interpreter = Interpreter(model_content=file)
    interpreter.allocate_tensors()
    (given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert given["dtype"] == found["dtype"] == np.int8
    assert tuple(given["shape"]) == (1, *x.shape[1:])
    rows = []
    for row in quantize(x, *given["quantization"], "int8"):
        interpreter.set_tensor(given["index"], row[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(found["index"])[0])
    return np.stack(rows), *found["quantization"]


@pytest.fixture(scope="module")
def trained():
    model = net()
    before = model.get_weights()
    made = tfmot.quantize_aware(model, X, Y, steps=60, marks=(20,), learning_rate=1e-2, golden=X)
    return made, model, before


@needs_tfmot
def test_an_int8_file_gives_what_the_quantization_aware_model_gives(trained):
    for one in trained[0]:
        found, scale, zero_point = int8_outputs(one.tflite, X)
        errors = np.abs(found.astype(int) - quantize(one.outputs, scale, zero_point, "int8"))
        assert errors.max() <= LARGEST_LSB
        assert np.mean(errors <= 1) >= SHARE_WITHIN_ONE
        shifted = np.abs(found.astype(int) - quantize(one.outputs + 4 * scale, scale, zero_point, "int8"))
        assert shifted.max() > LARGEST_LSB  # the check can fail


@needs_tfmot
def test_quantization_aware_training_learns(trained):
    assert [one.step for one in trained[0]] == [20, 60]
    assert np.mean(trained[0][-1].outputs.argmax(axis=1) == Y) > 0.9
    assert all(0 < one.seconds_per_step < 60 for one in trained[0])


@needs_tfmot
def test_the_source_and_this_process_stay_as_they_are(trained):
    assert same_weights(*trained[1:])
    assert not {"tensorflow_model_optimization", "tf_keras"} & set(sys.modules)
    assert "TF_USE_LEGACY_KERAS" not in os.environ


@needs_tfmot
def test_pruning_gives_exactly_the_sparsity_with_every_kind_of_layer(monkeypatch):
    monkeypatch.setattr(_job, "_TOLERANCE", FLOAT_TOLERANCE)  # of the outputs in tf_keras
    model, x = zoo(), zoo_samples()
    before = model.get_weights()
    pruned = tfmot.prune(model, x, Y, steps=4, sparsity=0.75, end_step=3)
    assert same_weights(model, before)
    assert [one.path for one in pruned.weights] == [one.path for one in model.weights]
    left_out = {path for path, kernel in kernels(pruned).items() if not np.any(kernel == 0)}
    assert {path.split("/")[1] for path in left_out} == {"kernel", "depthwise_kernel"}
    assert len(left_out) == 2  # of the depthwise and the separable convolution
    for path, kernel in kernels(pruned).items():
        if path not in left_out:
            assert np.sum(kernel == 0) == kernel.size - round(0.25 * kernel.size), path
    assert np.array_equal(pruned.get_layer("frozen").bias, model.get_layer("frozen").bias)
    assert not np.array_equal(pruned.get_layer("head").bias, model.get_layer("head").bias)


@needs_tfmot
def test_clustering_gives_at_most_so_many_values_a_kernel():
    clustered = tfmot.cluster(net(), X, Y, steps=5, clusters=5)
    found = {path: len(np.unique(kernel)) for path, kernel in kernels(clustered).items()}
    assert found.pop("depthwise/kernel") > 5  # TF-MOT leaves those
    assert set(found) == {"conv/kernel", "head/kernel"}
    assert max(found.values()) <= 5


@needs_tfmot
@pytest.mark.slow
def test_two_of_four_are_zero_along_the_inputs():
    pruned = kernels(tfmot.prune(small(L.Dense(8)), SMALL_X, Y, steps=2, m_by_n=(2, 4)))
    assert all((np.sum((one == 0)[:4], axis=0) == 2).all() for one in pruned.values())


@needs_tfmot
@pytest.mark.slow
def test_two_inputs_and_float_edges():
    first, second = keras.Input((6,), name="first"), keras.Input((6,), name="second")
    model = keras.Model([first, second], L.Dense(1)(L.Concatenate()([L.Dense(4)(first), L.Dense(4)(second)])))
    given = {"second": SMALL_X, "first": SMALL_X}
    made = tfmot.quantize_aware(model, given, Y[:, None], steps=3, loss="mean_squared_error", edges="float32")
    assert made.outputs is None
    interpreter = Interpreter(model_content=made.tflite)
    assert interpreter.get_signature_list()["serving_default"]["inputs"] == ["first", "second"]
    assert all(one["dtype"] == np.float32 for one in interpreter.get_input_details())


@needs_tfmot
@pytest.mark.slow
def test_step_times_are_those_of_each_round():
    times = tfmot.step_times(small(), SMALL_X, Y, rounds=3, steps_per_round=2)
    assert set(times) == {"float", "quantized"}
    assert all(len(one) == 3 and min(one) > 0 for one in times.values())


@needs_tfmot
def test_tfmot_refuses_what_it_does_not_know_by_name():
    inputs = keras.Input((8, 8))
    model = keras.Model(inputs, L.Dense(3)(L.LSTM(4, name="memory")(inputs)), name="recurrent")
    with pytest.raises(ValueError, match=r"TF-MOT refused 'recurrent': RuntimeError: Layer memory:.*not supported"):
        tfmot.quantize_aware(model, X[..., 0], Y, steps=1)


@needs_tfmot
@pytest.mark.slow
def test_a_layer_that_computes_something_else_in_tf_keras_is_refused():
    with pytest.raises(ValueError, match=r"must compute the same in tf_keras\. Received: .* error of 0\.\d+"):
        tfmot.prune(small(L.Activation("hard_sigmoid")), SMALL_X, Y, steps=1)


@needs_tfmot
@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (L.RMSNormalization(name="norm"), r"one that tf_keras has\. Received: 'norm' \(RMSNormalization\)"),
        (L.Dense(4, lora_rank=2, name="low"), r"setting of a layer .* Received: lora_rank=2, 'low' \(Dense\)"),
        (L.Activation("hard_silu", name="act"), r"that tf_keras can make\. Received: 'act' .*Unknown activation"),
    ],
)
def test_what_tf_keras_lacks_is_refused_by_name(layer, message):
    with pytest.raises(ValueError, match=message):
        tfmot.prune(small(layer), SMALL_X, Y, steps=1)


@needs_tfmot
@pytest.mark.slow
def test_weights_that_tfmot_does_not_give_back_are_an_error():
    inputs = keras.Input((8, 8))
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(L.MultiHeadAttention(2, 4, name="attention")(inputs, inputs))))
    with pytest.raises(ValueError, match=r"TF-MOT did not give back the weights .* Received: 'attention'"):
        tfmot.cluster(model, X[..., 0], Y, steps=1, clusters=4)


@needs_tfmot
@pytest.mark.slow
def test_labels_that_fail_in_training_are_told():
    with pytest.raises(RuntimeError, match=r"TF-MOT failed to cluster 'net': .*label value of 9 which is outside"):
        tfmot.cluster(small(), SMALL_X, Y * 0 + 9, steps=1, clusters=2)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("raise KeyError('first')", "TF-MOT failed to prune 'net': KeyError: 'first'"),
        ("import os; os.kill(os.getpid(), 9)", "its process crashed with SIGKILL"),
        ("raise SystemExit(3)", "its process ended with exit code 3 and wrote nothing"),
    ],
)
def test_a_process_that_fails_is_an_error_and_leaves_nothing(script, message, tmp_path, monkeypatch):
    (tmp_path / "worker.py").write_text(script)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(_job, "_PROGRAM", tmp_path / "worker.py")
    monkeypatch.setattr(_job, "_NEEDED", ())
    with pytest.raises(RuntimeError, match=message):
        tfmot.prune(small(), SMALL_X, Y, steps=1)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_missing_package_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(_job, "_NEEDED", ("tensorflow_model_optimisation",))
    with pytest.raises(
        ImportError, match=r"no tensorflow_model_optimisation\. Run: pip install 'keras_notes\[tfmot\]'"
    ):
        tfmot.cluster(small(), SMALL_X, Y, steps=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "`steps` must be >= 0"),
        ({"batch_size": 0}, "`batch_size` must be >= 1"),
        ({"learning_rate": 0}, "`learning_rate` must be > 0"),
        ({"loss": "focal"}, "`loss` must be one of"),
        ({"from_logits": "yes"}, "`from_logits` must be one of"),
        ({"edges": "uint8"}, "`edges` must be one of 'int8', 'float32'"),
        ({"marks": (1, 11)}, r"`marks` must be in \[0, 10\]"),
        ({"golden": SMALL_X[:, :5]}, r"`golden` must have the shape \(samples, 6\)"),
        ({"x": SMALL_X[:, :5]}, r"`x` must have the shape \(samples, 6\)"),
        ({"y": Y[:-1]}, "`y` must hold one label or value for each of the 96 samples"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmot.quantize_aware(small(), **{"x": SMALL_X, "y": Y, "steps": 10, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be >= 1"),
        ({"sparsity": 1.0}, r"`sparsity` must be a number in \[0, 1\)"),
        ({"initial_sparsity": 0.2}, "`end_step` must be given with an `initial_sparsity`"),
        ({"begin_step": 11}, "`begin_step`, .* must be <= `steps`, 10"),
        ({"frequency": 100}, "`frequency` if that is 0, must be <= `steps`, 10"),
        ({"end_step": 11}, "`end_step` must be <= `steps`, 10"),
        ({"begin_step": 5, "end_step": 5}, "`end_step` must be >= 6"),
        ({"end_step": 10, "frequency": 3}, "`frequency` must divide the 10 steps"),
        ({"m_by_n": (4, 2)}, r"`m_by_n` must be \(m, n\) with 0 < m < n"),
        ({"m_by_n": (1, 4)}, r"`sparsity` must be 0.25 for m_by_n=\(1, 4\)"),
        ({"m_by_n": (2, 4), "end_step": 5}, "`end_step` None for `m_by_n`"),
    ],
)
def test_wrong_arguments_of_pruning(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfmot.prune(small(), SMALL_X, Y, **{"steps": 10, **arguments})


def test_wrong_arguments_of_clustering_and_timing():
    with pytest.raises(ValueError, match="`clusters` must be >= 2"):
        tfmot.cluster(small(), SMALL_X, Y, steps=1, clusters=1)
    with pytest.raises(ValueError, match="`rounds` must be >= 1"):
        tfmot.step_times(small(), SMALL_X, Y, rounds=0)
    with pytest.raises(TypeError, match="`steps_per_round` must be an integer"):
        tfmot.step_times(small(), SMALL_X, Y, steps_per_round=0.5)


class Subclassed(keras.Model):
    """A model of one layer that is not wired."""

    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.dense = L.Dense(3)
        self.build((None, 6))

    def build(self, shape) -> None:
        """Creates the weights."""
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        """The outputs."""
        return self.dense(x)

    def get_config(self):
        """No arguments."""
        return {}

    @classmethod
    def from_config(cls, config):
        """The model."""
        return cls()


def _with_operation() -> keras.Model:
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.ops.relu(L.Dense(3)(inputs)))


def _with_two_outputs() -> keras.Model:
    inputs = keras.Input((6,))
    return keras.Model(inputs, [L.Dense(3)(inputs), L.Dense(3)(inputs)])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: L.Dense(3), TypeError, "`model` must be a keras.Model"),
        (lambda: keras.Sequential([L.Dense(3)]), ValueError, "`model` must be built"),
        (Subclassed, ValueError, r"must be functional, or sequential .* Received: 'subclassed' \(Subclassed\)"),
        (lambda: small(small(name="inner")), ValueError, r"layers only.* Received: 'inner' \(Sequential\)"),
        (_with_operation, ValueError, r"layers only.* Received: 'relu\w*' \(Relu\)"),
        (_with_two_outputs, ValueError, "must have one output, which is trained. Received: 2"),
        (lambda: keras.Sequential([keras.Input((None, 6)), L.Dense(3)]), ValueError, "inputs of known shapes"),
    ],
)
def test_models_that_cannot_be_sent(make, error, message):
    with pytest.raises(error, match=message):
        tfmot.prune(make(), SMALL_X, Y, steps=1)
