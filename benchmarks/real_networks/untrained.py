"""Networks of keras.applications without trained weights, by a seed; and heads of detection and segmentation on them.

`weights=None` leaves the batch normalizations as they begin, so that values vanish or grow from layer to layer: what a
conversion does there is what it does to a network of which a part died. The networks named "settled" have weights that
look trained (benchmarks/conversion/zoo.py).
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import applications, layers

from benchmarks.conversion.zoo import ZOO, samples
from benchmarks.conversion.zoo_parts import image
from benchmarks.real_networks.network import Network

CLASSES, SIZE = 10, 96
CALIBRATION, TEST = 64, 64
_FAMILIES = {
    "mobilenet_v2": (applications.mobilenet_v2, applications.MobileNetV2),
    "efficientnet_b0": (applications.efficientnet, applications.EfficientNetB0),
    "nasnet_mobile": (applications.nasnet, applications.NASNetMobile),
    "resnet50": (applications.resnet, applications.ResNet50),
}
# The rows of one network in the zoo take minutes at 64 x 64 pixels; these are the small ones of each form.
SETTLED = ("mobilenet_v2", "efficientnet_b0", "nasnet_mobile")


def draw_images(family: str, count: int, seed: int, size: int = SIZE) -> np.ndarray:
    """Draws smooth images, preprocessed as the family asks."""
    return image(size, _FAMILIES[family][0].preprocess_input).draw(np.random.default_rng(seed), count)


def build_application(family: str, size: int = SIZE) -> Network:
    """A family's network for ten classes, logits, with the weights that Keras begins with."""
    keras.utils.set_random_seed(0)
    model = _FAMILIES[family][1](input_shape=(size, size, 3), weights=None, classes=CLASSES, classifier_activation=None)
    return Network(model, draw_images(family, CALIBRATION, 1, size), draw_images(family, TEST, 2, size), CLASSES)


def build_settled(name: str) -> Network:
    """A network of the zoo of the conversion benchmarks, with weights that look trained."""
    return Network(ZOO[name](), samples(name, CALIBRATION, seed=1), samples(name, TEST, seed=2), CLASSES)


def _backbone() -> keras.Model:
    return applications.MobileNetV2(input_shape=(SIZE, SIZE, 3), alpha=0.35, include_top=False, weights=None)


def _build_headed(add_heads: Callable[[keras.Model], dict[str, keras.KerasTensor]], name: str, classes: int) -> Network:
    """A MobileNetV2 with heads."""
    keras.utils.set_random_seed(0)
    backbone = _backbone()
    model = keras.Model(backbone.input, add_heads(backbone), name=name)
    calibration, test = (draw_images("mobilenet_v2", count, seed) for count, seed in ((CALIBRATION, 1), (TEST, 2)))
    return Network(model, calibration, test, classes)


def build_segmentation() -> Network:
    """A segmentation of five classes: features of two sizes, upsampled and joined."""

    def add_heads(backbone):
        deep, fine = backbone.output, backbone.get_layer("block_6_expand_relu").output
        x = layers.Conv2D(32, 1, activation="relu", name="reduce")(deep)
        x = layers.UpSampling2D(4, interpolation="bilinear", name="up")(x)
        fine = layers.Conv2D(32, 1, activation="relu", name="fine")(fine)
        x = layers.Concatenate(name="joined")([x, fine])
        x = layers.SeparableConv2D(32, 3, padding="same", activation="relu", name="refine")(x)
        x = layers.Conv2D(5, 1, name="classes")(x)
        return layers.UpSampling2D(8, interpolation="bilinear", name="mask")(x)

    return _build_headed(add_heads, "segmentation", 5)


def build_single_shot_detector() -> Network:
    """A detector: boxes and scores at the places of two feature maps, each joined to one output."""

    def add_heads(backbone):
        maps = backbone.get_layer("block_13_expand_relu").output, backbone.output
        boxes, scores = [], []
        for index, features in enumerate(maps):
            for results, size, name in ((boxes, 4, "box"), (scores, 6, "score")):
                x = layers.SeparableConv2D(3 * size, 3, padding="same", name=f"{name}_{index}")(features)
                results.append(layers.Reshape((-1, size), name=f"{name}_list_{index}")(x))
        score = layers.Concatenate(axis=1, name="scores")(scores)
        return [
            layers.Concatenate(axis=1, name="boxes")(boxes),
            layers.Activation("sigmoid", name="probabilities")(score),
        ]

    return _build_headed(add_heads, "single_shot_detector", 6)
