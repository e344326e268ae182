"""Ranges that calibration leaves of no use: every kernel opens the file, and its outputs are the model's."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_notes as kn
from keras_notes.conversion import _quantizer_settings
from keras_notes.conversion.grids._fit_ranges import step_of

X = np.random.default_rng(0).random((64, 8, 8, 3)).astype("float32")
NEVER = keras.initializers.Constant(-100.0)


def dead_branches():
    """Layers that give nothing on the calibration data, in sums, products and concatenations with layers that do."""
    image = keras.Input((8, 8, 3))
    outputs = {}
    for name, dead in {
        "conv": layers.Conv2D(4, 3, padding="same", activation="relu", bias_initializer=NEVER),
        "depthwise": layers.DepthwiseConv2D(3, padding="same", activation="relu6", bias_initializer=NEVER),
        "transposed": layers.Conv2DTranspose(4, 1, activation="relu", bias_initializer=NEVER),
    }.items():
        alive = layers.Conv2D(3, 1)(image)
        silent = layers.Conv2D(3, 1)(layers.MaxPooling2D(1)(dead(image)))
        merged = layers.Concatenate()([layers.Add()([silent, alive]), layers.Multiply()([silent, alive]), silent])
        outputs[name] = layers.Dense(3)(layers.GlobalAveragePooling2D()(merged))
    flat = layers.Flatten()(image)
    gated = layers.Dense(4, activation="relu", bias_initializer=NEVER)(flat)
    outputs["dense"] = layers.Dense(3, bias_initializer="ones")(layers.Reshape((2, 2))(gated)[:, 0])
    outputs["subtracted"] = layers.Dense(3)(ops.relu(flat[:, :8] - 5.0) + flat[:, :8])
    return keras.Model(image, outputs)


def vanishing():
    """Activations that grow smaller from layer to layer, as in a deep network that was never trained."""
    x = image = keras.Input((8, 8, 3))
    small = keras.initializers.RandomUniform(-1e-3, 1e-3, seed=0)
    for _ in range(5):
        x = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same", depthwise_initializer=small)(x))
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("recipe", ["static_int8", "int16x8"])
def test_files_of_dead_layers_run_on_both_kernel_sets(recipe, tmp_path):
    keras.utils.set_random_seed(0)
    bundle = kn.convert(dead_branches(), tmp_path / "bundle", recipe, calibration=X)
    for kernels in ("xnnpack", "builtin"):
        assert kn.verify(bundle, kernels=kernels).ok


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin"])
def test_activations_that_vanish_keep_scales_that_kernels_take(kernels, tmp_path):
    bundle = kn.convert(vanishing(), tmp_path / "bundle", "static_int8", calibration=X)
    # The file runs; what vanishes within a step of its grid is said by name.
    with pytest.raises(kn.errors.VerificationError, match=r"must follow the trained model.* of the layer 're_lu"):
        kn.verify(bundle, kernels=kernels)


def test_an_input_of_zeros_gets_a_grid_of_use(tmp_path):
    model = keras.Sequential([keras.Input((16,)), layers.Dense(3)])
    bundle = kn.convert(model, tmp_path / "bundle", "static_int8", calibration=np.zeros((1, 16), "float32"))
    assert bundle.manifest.signatures[0].inputs[0].scale == pytest.approx(2 / 255)
    assert kn.verify(bundle).ok


def test_rescaling_to_powers_of_two_runs_in_int16(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3)).astype("float32")
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    rescaling = layers.Rescaling(1 / 127.5, offset=-1)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), rescaling, layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    )
    bundle = kn.convert(model, tmp_path / "bundle", "int16x8", calibration=images)
    assert kn.verify(bundle, kernels="builtin").ok


def test_what_no_kernel_takes_is_an_error_that_names_the_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(_quantizer_settings, "fit_ranges", lambda model, ranges, activations_of: ranges)
    image = keras.Input((16,))
    hidden = layers.Dense(8, activation="relu", bias_initializer=NEVER, name="dead")(image)
    model = keras.Model(image, layers.Dense(3)(hidden))
    flat = X.reshape(len(X), -1)[:, :16]
    with pytest.raises(kn.errors.ConversionError, match=r"'dead'.*'layers': {'dead': 'float32'}") as caught:
        kn.convert(model, tmp_path / "bundle", "static_int8", calibration=flat)
    assert not (tmp_path / "bundle").exists()
    assert "tmp" not in str(caught.value)
    monkeypatch.undo()
    remedy = {"default": "static_int8", "layers": {"dead": "float32"}}
    assert kn.verify(kn.convert(model, tmp_path / "bundle", remedy, calibration=flat)).ok


def test_steps_are_those_of_the_quantizer():
    assert step_of(0.5, 1.0, "int8") == pytest.approx(1 / 255)
    assert step_of(-0.5, 1.0, "int16") == pytest.approx(1 / 32767)
    assert step_of(0.0, 0.0, "int8") == pytest.approx(1e-9 / 255)
