"""Layers in fewer operators than Keras's own call, after training and in it; layers that training alone needs."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_notes as kn
from keras_notes._litert.reader import read_tflite
from keras_notes.compression import quantize_aware

RNG = np.random.default_rng(0)
SEQUENCES = RNG.normal(size=(64, 6, 8, 8, 3)).astype("float32")
IMAGES = RNG.uniform(0, 255, size=(64, 8, 8, 3)).astype("float32")


def resampling_net() -> keras.Model:
    """Repetitions: upsampling of one, two and three axes, RepeatVector, `repeat` and `tile`."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8, 8, 3))
    volume = layers.UpSampling3D((2, 1, 3))(layers.Dense(2)(inputs))
    image = layers.UpSampling2D((3, 2))(layers.Dense(4)(layers.Reshape((6, 8, 24))(inputs)))
    sequence = layers.UpSampling1D(3)(layers.Reshape((18, 64))(image))
    vector = layers.RepeatVector(5)(layers.GlobalAveragePooling3D()(volume))
    repeated = ops.tile(ops.repeat(vector, 2, axis=1), (1, 1, 2))
    return keras.Model(inputs, [volume, layers.Dense(2)(image), layers.Dense(2)(sequence), layers.Dense(2)(repeated)])


def distributed_net() -> keras.Model:
    """Layers at each step of a sequence: a product, a convolution, and a model."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 8, 8, 3))
    x = layers.TimeDistributed(layers.Conv2D(4, 3, activation="relu"))(inputs)
    x = layers.TimeDistributed(layers.MaxPooling2D())(x)
    frame = keras.Sequential([keras.Input((3, 3, 4)), layers.Flatten(), layers.Dense(5)])
    x = layers.TimeDistributed(frame)(x)
    return keras.Model(inputs, layers.TimeDistributed(layers.Dense(3))(x))


@pytest.mark.parametrize("aware", [False, True], ids=["after training", "in training"])
def test_repetitions_are_single_operators(aware, tmp_path):
    net = resampling_net()
    if aware:
        bundle = kn.convert(quantize_aware(net, calibration=SEQUENCES), tmp_path / "bundle", golden=SEQUENCES[:4])
        report = kn.verify(bundle)
        assert max(output.max_error_lsb for output in report.outputs) < 0.01
    else:
        bundle = kn.convert(net, tmp_path / "bundle", "static_int8", calibration=SEQUENCES)
    file = read_tflite(bundle.model_path)
    assert file.float_operators() == ()
    # One for each axis-pair: two of the volume, one of the image, one of the sequence.
    assert file.operator_counts()["RESIZE_NEAREST_NEIGHBOR"] == 4
    assert "PACK" not in file.operator_counts()


@pytest.mark.parametrize("aware", [False, True], ids=["after training", "in training"])
def test_steps_are_computed_at_once(aware, tmp_path):
    net = distributed_net()
    if aware:
        bundle = kn.convert(quantize_aware(net, calibration=SEQUENCES), tmp_path / "bundle", golden=SEQUENCES[:4])
        assert kn.verify(bundle).outputs[0].max_error_lsb < 0.01
    else:
        bundle = kn.convert(net, tmp_path / "bundle", "static_int8", calibration=SEQUENCES)
        assert kn.verify(bundle).ok
    counts = read_tflite(bundle.model_path).operator_counts()
    assert (counts["CONV_2D"], counts["MAX_POOL_2D"], counts["FULLY_CONNECTED"]) == (1, 1, 2)


AUGMENTATIONS = [
    name
    for name in dir(layers)
    if (name.startswith("Random") and name != "RandomCrop") or name in ("AugMix", "RandAugment")
]


def test_augmentation_acts_in_training_and_is_gone_from_the_file(tmp_path):
    keras.utils.set_random_seed(0)
    random_layers = [
        layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.2),
        layers.RandomContrast(0.5, value_range=(0, 255)), layers.RandomTranslation(0.1, 0.1), layers.GaussianNoise(1.0),
    ]  # fmt: skip
    net = keras.Sequential(
        [
            keras.Input((8, 8, 3)), *random_layers, layers.Rescaling(1 / 127.5, offset=-1), layers.Conv2D(4, 3),
            layers.SpatialDropout2D(0.3), layers.ActivityRegularization(0.01), layers.ReLU(),
            layers.GlobalAveragePooling2D(), layers.GaussianDropout(0.2), layers.AlphaDropout(0.1), layers.Dense(2),
        ]
    )  # fmt: skip
    aware = quantize_aware(net, calibration=IMAGES)
    assert not np.allclose(aware(IMAGES, training=True), aware(IMAGES, training=True), atol=1e-4)
    aware.compile("sgd", "mse")
    aware.fit(IMAGES, np.zeros((64, 2)), epochs=1, verbose=0)
    bundle = kn.convert(aware, tmp_path / "bundle", golden=IMAGES)
    report = kn.verify(bundle)
    assert report.outputs[0].max_error_lsb < 0.01
    plain = keras.Sequential([keras.Input((8, 8, 3)), *(layer for layer in net.layers if "random" not in layer.name)])
    without = kn.convert(quantize_aware(plain, calibration=IMAGES), tmp_path / "without", golden=IMAGES)
    assert kn.verify(without).operators == report.operators


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_is_known(name):
    """Each of Keras's layers is taken by training in integers, and changes nothing in inference."""
    from keras_notes.compression.quantization._interpreter import has_rule

    arguments = {"RandomPosterization": (4,), "RandomTranslation": (0.2, 0.2), "RandomSharpness": (0.5,)}
    try:
        layer = getattr(layers, name)(*arguments.get(name, ()))
    except TypeError:
        layer = getattr(layers, name)(0.2)
    assert has_rule(layer)
    np.testing.assert_array_equal(np.asarray(layer(IMAGES[:2], training=False)), IMAGES[:2])
