"""Connectors between features of different widths, and the masks that they keep."""

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.losses import (
    AttentionTransferLoss,
    HintLoss,
    ProbabilisticTransferLoss,
    RelationalLoss,
    SimilarityPreservingLoss,
)
from tests.distillation.features import (
    CLASSES,
    FLOAT32_SUMS,
    NEW_SHAPES,
    compiled,
    feature_loss,
    features_alone,
    fitted,
    hidden,
    mean_square,
    perceptron,
)
from tests.distillation.training import (
    same,
    weights_of,
)

pytestmark = pytest.mark.any_backend


def test_features_of_two_widths_meet_behind_a_dense_layer_that_is_trained_along(data):
    x, y = data
    teacher, student = perceptron(5), perceptron(3)
    count = student.count_params()
    distiller = features_alone(teacher, student, kn.FeatureMatch("hidden", "hidden", HintLoss()))
    (connector,) = distiller.connectors
    weight, bias = map(np.float64, connector.get_weights())
    own = {variable.path for variable in connector.trainable_variables}
    assert own <= {variable.path for variable in distiller.trainable_variables}
    assert not own & {variable.path for variable in student.variables}

    h = hidden(student, x)
    difference = h @ weight + bias - hidden(teacher, x)
    logs = fitted(distiller, x, y)

    assert logs["distillation_loss"] == pytest.approx((difference**2).mean(), rel=FLOAT32_SUMS)
    gradient = 2 * h.T @ difference / difference.size
    np.testing.assert_allclose(connector.get_weights()[0], weight - 0.1 * gradient, atol=1e-6)
    assert student.count_params() == count


def test_a_connector_of_images_is_a_convolution_of_size_1(images):
    x, y = images

    def model(channels):
        layers = [keras.layers.Conv2D(channels, 1, name="c"), keras.layers.GlobalAveragePooling2D()]
        return keras.Sequential([keras.Input(x.shape[1:]), *layers, keras.layers.Dense(CLASSES)])

    def feature(network):
        weight, bias = map(np.float64, network.get_layer("c").get_weights())
        return np.float64(x) @ weight[0, 0] + bias

    teacher, student = model(5), model(3)
    distiller = features_alone(teacher, student, kn.FeatureMatch("c", "c", HintLoss()), **NEW_SHAPES)
    weight, bias = map(np.float64, distiller.connectors[0].get_weights())
    wanted = mean_square(feature(teacher), feature(student) @ weight + bias)
    assert feature_loss(distiller, x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_a_connector_works_on_the_axis_of_the_loss(images):
    x, y = images
    x = np.moveaxis(x, -1, 1)

    def model(channels):
        layers = [keras.layers.EinsumDense("bchw,cd->bdhw", (channels, 4, 2), name="c"), keras.layers.Flatten()]
        return keras.Sequential([keras.Input(x.shape[1:]), *layers, keras.layers.Dense(CLASSES)])

    def feature(network):
        return np.einsum("bchw,cd->bdhw", np.float64(x), np.float64(network.get_layer("c").get_weights()[0]))

    teacher, student = model(5), model(3)
    distiller = features_alone(teacher, student, kn.FeatureMatch("c", "c", HintLoss(axis=1)), **NEW_SHAPES)
    weight, bias = map(np.float64, distiller.connectors[0].get_weights())
    assert weight.shape == (3, 5)
    projected = np.einsum("bchw,cd->bdhw", feature(student), weight) + bias[:, None, None]
    wanted = mean_square(feature(teacher), projected)
    assert feature_loss(distiller, x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)


def test_a_given_layer_is_the_connector(data):
    x, y = data
    teacher, student = perceptron(5), perceptron(3)
    projection = keras.layers.Dense(5, "tanh")
    distiller = features_alone(teacher, student, kn.FeatureMatch("hidden", "hidden", "mse", projection=projection))
    weight, bias = map(np.float64, projection.get_weights())
    wanted = mean_square(hidden(teacher, x), np.tanh(hidden(student, x) @ weight + bias))
    assert feature_loss(distiller, x, y) == pytest.approx(wanted, rel=FLOAT32_SUMS)
    fitted(distiller, x, y)
    assert not np.array_equal(projection.get_weights()[0], np.float32(weight))


@pytest.mark.parametrize("width", [1, 7])
def test_a_given_layer_of_another_width_is_an_error_and_never_broadcasts(data, width):
    match = kn.FeatureMatch("hidden", "hidden", "mse", projection=keras.layers.Dense(width))
    with pytest.raises(ValueError, match="same shape"):
        fitted(features_alone(perceptron(5), perceptron(3), match), *data)


def test_no_connector_where_the_loss_or_the_widths_need_none(images):
    x, y = images

    def model(channels):
        layers = [keras.layers.Conv2D(channels, 1, name="c"), keras.layers.GlobalAveragePooling2D()]
        return keras.Sequential([keras.Input(x.shape[1:]), *layers, keras.layers.Dense(CLASSES)])

    teacher, student, loss = model(5), model(3), AttentionTransferLoss()
    others = [RelationalLoss(), SimilarityPreservingLoss(), ProbabilisticTransferLoss()]
    matches = [kn.FeatureMatch("c", "c", each) for each in (loss, *others)]
    assert features_alone(teacher, student, *matches).connectors == []
    assert features_alone(model(3), student, kn.FeatureMatch("c", "c", HintLoss())).connectors == []
    weights = [np.float64(network.get_layer("c").get_weights()[0])[0, 0] for network in (teacher, student)]
    wanted = float(loss(*(np.float32(x @ weight) for weight in weights)))
    assert feature_loss(features_alone(teacher, student, matches[0], **NEW_SHAPES), x, y) == pytest.approx(
        wanted, rel=FLOAT32_SUMS
    )


def test_training_by_labels_alone_leaves_the_connectors_out(data):
    distiller = kn.Distiller(
        perceptron(5),
        perceptron(3),
        student_loss_weight=1.0,
        features=kn.FeatureMatch("hidden", "hidden", HintLoss()),
    )
    # Keras warns, here an error, of variables that no gradient reaches.
    fitted(compiled(distiller), *data)


@pytest.mark.parametrize("way", ["fit", "train_on_batch"])
def test_connectors_of_unbuilt_models_are_made_with_the_first_batch(data, way):
    teacher, student = (
        keras.Sequential([keras.layers.Dense(width, name="hidden"), keras.layers.Dense(CLASSES)]) for width in (5, 3)
    )
    distiller = compiled(kn.Distiller(teacher, student, features=kn.FeatureMatch("hidden", "hidden", HintLoss())))
    getattr(distiller, way)(*data)
    before = weights_of(distiller.connectors[0])
    getattr(distiller, way)(*data)
    assert not same(weights_of(distiller.connectors[0]), before)


def test_a_connector_keeps_the_mask_of_the_students_feature():
    tokens = np.array([[1, 2, 3, 0, 0], [2, 1, 0, 0, 0], [3, 3, 1, 2, 0]])

    def model(width, seed):
        rng = np.random.default_rng(seed)
        layers = [keras.layers.Embedding(4, 5, mask_zero=True), keras.layers.Dense(width, name="h")]
        network = keras.Sequential([keras.Input((5,), dtype="int32"), *layers, keras.layers.Dense(3)])
        layers[0].set_weights([rng.normal(size=(4, 5))])
        return network

    def feature(network):
        table, weight, bias = map(np.float64, network.get_weights()[:3])
        return table[tokens] @ weight + bias

    teacher, student = model(6, 1), model(4, 2)
    distiller = features_alone(teacher, student, kn.FeatureMatch("h", "h", HintLoss()), **NEW_SHAPES)
    weight, bias = map(np.float64, distiller.connectors[0].get_weights())
    squares = ((feature(teacher) - feature(student) @ weight - bias) ** 2).mean(-1)
    wanted = squares[tokens > 0].mean()
    assert feature_loss(distiller, tokens, np.zeros_like(tokens)) == pytest.approx(wanted, rel=FLOAT32_SUMS)
