"""The conversion zoo, part one: every family of keras.applications, models of images, and forms of a model."""

import functools

import keras
from keras import applications, layers, ops

from benchmarks.conversion.zoo_parts import Registry, features, field, image

MODELS = Registry()
CLASSES = 10

# Where a family has its own `preprocess_input`, samples go through it; some hold it inside, and take pixels.
_FAMILIES = (
    ("mobilenet", applications.mobilenet, applications.MobileNet, 64, {"alpha": 0.25}),
    ("mobilenet_v2", applications.mobilenet_v2, applications.MobileNetV2, 64, {"alpha": 0.35}),
    ("mobilenet_v3_small", applications.mobilenet_v3, applications.MobileNetV3Small, 64, {"minimalistic": False}),
    ("efficientnet_b0", applications.efficientnet, applications.EfficientNetB0, 64, {}),
    ("efficientnet_v2_b0", applications.efficientnet_v2, applications.EfficientNetV2B0, 64, {}),
    ("resnet50", applications.resnet, applications.ResNet50, 64, {}),
    ("resnet50_v2", applications.resnet_v2, applications.ResNet50V2, 64, {}),
    ("densenet121", applications.densenet, applications.DenseNet121, 64, {}),
    ("nasnet_mobile", applications.nasnet, applications.NASNetMobile, 64, {}),
    ("xception", applications.xception, applications.Xception, 71, {}),
    ("convnext_tiny", applications.convnext, applications.ConvNeXtTiny, 64, {}),
    ("inception_v3", applications.inception_v3, applications.InceptionV3, 75, {}),
    ("inception_resnet_v2", applications.inception_resnet_v2, applications.InceptionResNetV2, 75, {}),
    ("vgg16", applications.vgg16, applications.VGG16, 64, {}),
)


def _family(inputs, *, constructor, **arguments):
    shape = inputs.shape[1:]
    return constructor(
        input_tensor=inputs,
        input_shape=shape,
        weights=None,
        classes=CLASSES,
        classifier_activation=None,
        **arguments,
    ).output


for _name, _module, _constructor, _size, _arguments in _FAMILIES:
    MODELS.add(name=_name, image=image(_size, _module.preprocess_input))(
        functools.partial(_family, constructor=_constructor, **_arguments)
    )


def _conv(inputs, filters, kernel=3, activation="relu", **arguments):
    """Convolution, batch normalization, activation."""
    hidden = layers.Conv2D(filters, kernel, padding="same", use_bias=False, **arguments)(inputs)
    return layers.Activation(activation)(layers.BatchNormalization()(hidden))


def _pooled(inputs, units=CLASSES, activation=None, name=None):
    return layers.Dense(units, activation, name=name)(layers.GlobalAveragePooling2D()(inputs))


@MODELS.add(image=image(32))
def residual(inputs):
    """Three residual blocks, the last two with a projection."""
    hidden = _conv(inputs, 16)
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        skipped = hidden if strides == 1 else _conv(hidden, filters, 1, "linear", strides=strides)
        hidden = _conv(_conv(hidden, filters, strides=strides), filters, activation="linear")
        hidden = layers.ReLU()(layers.Add()([hidden, skipped]))
    return _pooled(hidden)


@MODELS.add(image=image(32))
def squeeze_excite(inputs):
    """Channels gated by their means."""
    hidden = _conv(inputs, 24, strides=2)
    for _ in range(2):
        hidden = _conv(hidden, 24, activation="swish")
        gate = layers.GlobalAveragePooling2D(keepdims=True)(hidden)
        gate = layers.Conv2D(24, 1, activation="sigmoid")(layers.Conv2D(6, 1, activation="relu")(gate))
        hidden = layers.Multiply()([hidden, gate])
    return _pooled(hidden)


@MODELS.add(image=image(32))
def depthwise_separable(inputs):
    """Depthwise and separable convolutions with ReLU6, depth multiplier 2 in one."""
    hidden = _conv(inputs, 16, activation="relu6", strides=2)
    hidden = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False)(hidden)
    hidden = layers.ReLU(6.0)(layers.BatchNormalization()(hidden))
    hidden = layers.SeparableConv2D(32, 3, padding="same", activation="relu6")(hidden)
    hidden = layers.AveragePooling2D(2)(layers.SeparableConv2D(48, 5, padding="same", use_bias=False)(hidden))
    return _pooled(layers.ReLU(6.0)(layers.BatchNormalization()(hidden)))


@MODELS.add(image=image(32))
def dilated(inputs):
    """A segmentation head of dilated convolutions side by side, one grouped; logits a pixel."""
    hidden = _conv(inputs, 16)
    branches = [_conv(hidden, 16, dilation_rate=rate) for rate in (1, 2, 4)]
    branches.append(_conv(hidden, 16, groups=4))
    return layers.Conv2D(5, 1)(layers.Concatenate()(branches))


@MODELS.add(image=image(32))
def group_norm(inputs):
    """Group normalization after each convolution."""
    hidden = inputs
    for filters in (16, 32, 32):
        hidden = layers.Conv2D(filters, 3, strides=2, padding="same")(hidden)
        hidden = layers.Activation("relu")(layers.GroupNormalization(8)(hidden))
    return _pooled(hidden)


@MODELS.add(image=image(32))
def leaky_activations(inputs):
    """PReLU, LeakyReLU and ELU."""
    hidden = layers.PReLU(shared_axes=[1, 2])(_conv(inputs, 16, activation="linear", strides=2))
    hidden = layers.LeakyReLU(0.1)(_conv(hidden, 32, activation="linear", strides=2))
    hidden = layers.ELU()(_conv(hidden, 32, activation="linear"))
    return _pooled(hidden)


@MODELS.add(volume=field(8, 16, 16, 2))
def conv3d(inputs):
    """Convolutions and pooling over volumes."""
    hidden = layers.Conv3D(8, 3, padding="same", activation="relu")(inputs)
    hidden = layers.Conv3D(16, 3, padding="same", use_bias=False)(layers.MaxPooling3D(2)(hidden))
    hidden = layers.Activation("relu")(layers.BatchNormalization()(hidden))
    return layers.Dense(4)(layers.GlobalAveragePooling3D()(hidden))


def _unet(inputs, up):
    hidden, skipped = _conv(inputs, 12), []
    for filters in (24, 48):
        skipped.append(hidden)
        hidden = _conv(layers.MaxPooling2D(2)(hidden), filters)
    for filters in (24, 12):
        hidden = layers.Concatenate()([up(filters)(hidden), skipped.pop()])
        hidden = _conv(hidden, filters)
    return layers.Conv2D(3, 1)(hidden)


@MODELS.add(image=image(32))
def unet_transpose(inputs):
    """U-Net that grows by transposed convolutions; logits a pixel."""
    return _unet(inputs, lambda filters: layers.Conv2DTranspose(filters, 3, strides=2, padding="same"))


@MODELS.add(image=image(32))
def unet_upsampling(inputs):
    """U-Net that grows by bilinear interpolation; logits a pixel."""
    return _unet(inputs, lambda filters: layers.UpSampling2D(2, interpolation="bilinear"))


@MODELS.add(image=image(40, lambda pixels: pixels))
def preprocessing_inside(inputs):
    """Takes pixels: resizing, rescaling and normalization are layers of the model."""
    hidden = layers.Rescaling(1 / 255)(layers.Resizing(32, 32)(inputs))
    hidden = layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.0524, 0.0502, 0.0506])(hidden)
    return _pooled(_conv(_conv(hidden, 16, strides=2), 32, strides=2))


@MODELS.add(image=image(32, lambda pixels: pixels, dtype="uint8"))
def bytes_in(inputs):
    """Takes pixels as uint8."""
    hidden = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    return _pooled(_conv(_conv(hidden, 16, strides=2), 32, strides=2))


@MODELS.add(image=image(32))
def dropout_noise(inputs):
    """Layers that act while training only: they must leave no trace."""
    hidden = layers.SpatialDropout2D(0.2)(_conv(layers.GaussianNoise(0.1)(inputs), 16, strides=2))
    hidden = layers.Flatten()(layers.GaussianDropout(0.2)(_conv(hidden, 16, strides=2)))
    return layers.Dense(CLASSES)(layers.Dropout(0.5)(layers.Dense(32, "relu")(hidden)))


@MODELS.add(image=image(16))
def tiny_weights(inputs):
    """Every tensor below 1,024 elements, where the converter's dynamic range quantization leaves weights alone."""
    hidden = inputs
    for filters in (8, 8, 12):
        hidden = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(hidden)
    return layers.Dense(4)(layers.Flatten()(hidden))


@MODELS.add(image=image(32))
def softmax_classifier(inputs):
    """Ends in probabilities of exclusive classes."""
    hidden = layers.Flatten()(_conv(_conv(inputs, 16, strides=2), 16, strides=2))
    return layers.Dense(4, "softmax")(hidden)


@MODELS.add(image=image(32))
def sigmoid_multilabel(inputs):
    """Ends in probabilities of independent labels."""
    hidden = layers.Flatten()(_conv(_conv(inputs, 16, strides=2), 16, strides=2))
    return layers.Dense(6, "sigmoid")(hidden)


@MODELS.add(image=image(32), metadata=features(5))
def multi_input(inputs, metadata):
    """An image and features that belong to it."""
    pooled = layers.GlobalAveragePooling2D()(_conv(_conv(inputs, 16, strides=2), 32, strides=2))
    hidden = layers.Concatenate()([pooled, layers.Dense(16, "relu")(metadata)])
    return layers.Dense(4)(layers.Dense(32, "relu")(hidden))


@MODELS.add(image=image(32))
def multi_output(inputs):
    """Classes, a box and a map of other resolution, in a list."""
    hidden = _conv(_conv(inputs, 16, strides=2), 32, strides=2)
    return [_pooled(hidden, name="classes"), _pooled(hidden, 4, name="box"), layers.Conv2D(2, 1, name="map")(hidden)]


@MODELS.add(image=image(32), metadata=features(5))
def dict_input_output(inputs, metadata):
    """Inputs and outputs in dicts, whose keys are in no alphabetical order."""
    hidden = _conv(_conv(inputs, 16, strides=2), 32, strides=2)
    joined = layers.Concatenate()([layers.GlobalAveragePooling2D()(hidden), layers.Dense(16, "tanh")(metadata)])
    outputs = {"score": layers.Dense(3)(joined), "heat": layers.Conv2D(1, 1)(hidden)}
    return keras.Model({"metadata": metadata, "image": inputs}, outputs, name="dict_input_output")


@MODELS.add(image=image(32))
def nested(inputs):
    """A functional model that holds a functional model that holds a sequential one."""
    stem = keras.Sequential([layers.Conv2D(16, 3, strides=2), layers.BatchNormalization(), layers.ReLU()], name="stem")
    inner = keras.Input((32, 32, 3))
    encoder = keras.Model(inner, _conv(stem(inner), 32, strides=2), name="encoder")
    return _pooled(encoder(inputs))


@keras.saving.register_keras_serializable("keras_notes_zoo")
class Subclassed(keras.Model):
    """A model with a `call` of its own, which has no graph to read."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.convolutions = [layers.Conv2D(16, 3, strides=2, activation="relu") for _ in range(2)]
        self.norm = layers.BatchNormalization()
        self.dropout = layers.Dropout(0.3)
        self.dense = layers.Dense(CLASSES)

    def call(self, inputs, training=None):
        """Two convolutions, then mean and maximum over space."""
        hidden = inputs
        for convolution in self.convolutions:
            hidden = convolution(hidden)
        hidden = self.norm(hidden, training=training)
        pooled = ops.concatenate([ops.mean(hidden, (1, 2)), ops.max(hidden, (1, 2))], axis=-1)
        return self.dense(self.dropout(pooled, training=training))


@MODELS.add(image=image(32))
def subclassed(inputs):
    """Not functional."""
    model = Subclassed(name="subclassed")
    model(inputs)
    return model


@MODELS.add(left=image(32), right=image(32))
def siamese(left, right):
    """One encoder for both inputs, and one layer that is called four times."""
    inner = keras.Input((32, 32, 3))
    encoder = keras.Model(inner, _pooled(_conv(_conv(inner, 16, strides=2), 32, strides=2), 24), name="encoder")
    shared = layers.Dense(24, "tanh", name="shared")
    first, second = (shared(shared(encoder(side))) for side in (left, right))
    distance = ops.abs(layers.Subtract()([first, second]))
    return layers.Dense(3)(layers.Concatenate()([distance, layers.Multiply()([first, second])]))
