"""The conversion zoo, part two: sequences. Recurrent networks, audio, text, attention."""

import keras
from keras import layers, ops

from benchmarks.conversion.zoo_parts import VOCABULARY, Registry, field, ids, image, sound

MODELS = Registry()
SERIES = field(16, 8)
WIDTH = 32


@MODELS.add(series=SERIES)
def lstm(inputs):
    """The last state of an LSTM."""
    return layers.Dense(4)(layers.LSTM(24)(inputs))


@MODELS.add(series=SERIES)
def gru(inputs):
    """The last state of a GRU."""
    return layers.Dense(4)(layers.GRU(24)(inputs))


@MODELS.add(series=SERIES)
def simple_rnn(inputs):
    """The last state of a plain recurrent network."""
    return layers.Dense(4)(layers.SimpleRNN(24)(inputs))


@MODELS.add(series=SERIES)
def bidirectional_lstm(inputs):
    """Read from both ends."""
    return layers.Dense(4)(layers.Bidirectional(layers.LSTM(16))(inputs))


@MODELS.add(series=SERIES)
def stacked_lstm(inputs):
    """Two LSTMs that return sequences; an output a step."""
    hidden = layers.LSTM(24, return_sequences=True)(inputs)
    return layers.Dense(3)(layers.LSTM(16, return_sequences=True)(hidden))


@MODELS.add(series=SERIES)
def unrolled_lstm(inputs):
    """An LSTM without a loop."""
    return layers.Dense(4)(layers.LSTM(24, unroll=True)(inputs))


@MODELS.add(batch=1, series=SERIES)
def stateful_lstm(inputs):
    """An LSTM that keeps its state from one call to the next, so the order of samples matters."""
    return layers.Dense(4)(layers.LSTM(24, stateful=True)(inputs))


@MODELS.add(series=field(6, 16, 3))
def conv_lstm(inputs):
    """An LSTM over rows, with convolutions for gates."""
    return layers.Dense(4)(layers.Flatten()(layers.ConvLSTM1D(8, 3, padding="same")(inputs)))


@MODELS.add(video=field(4, 16, 16, 3))
def time_distributed_cnn(inputs):
    """A small network on every frame."""
    frame = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(12, 3, strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(WIDTH, "relu"),
        ]
    )
    return layers.Dense(4)(layers.GlobalMaxPooling1D()(layers.TimeDistributed(frame)(inputs)))


@MODELS.add(sound=sound(4096))
def audio(inputs):
    """Strided and depthwise convolutions on the raw waveform."""
    hidden = inputs
    for filters, kernel, strides in ((16, 64, 8), (32, 9, 4), (32, 5, 2)):
        hidden = layers.Conv1D(filters, kernel, strides=strides, padding="same", use_bias=False)(hidden)
        hidden = layers.ReLU()(layers.BatchNormalization()(hidden))
    hidden = layers.MaxPooling1D(2)(layers.DepthwiseConv1D(5, padding="same", activation="relu")(hidden))
    return layers.Dense(8)(layers.GlobalMaxPooling1D()(hidden))


@MODELS.add(tokens=ids(32))
def text_cnn(inputs):
    """Convolutions of three widths over embeddings, the strongest answer of each."""
    hidden = layers.Embedding(VOCABULARY, 16)(inputs)
    strongest = [
        layers.GlobalMaxPooling1D()(layers.Conv1D(16, width, activation="relu")(hidden)) for width in (3, 4, 5)
    ]
    return layers.Dense(4)(layers.Concatenate()(strongest))


@MODELS.add(tokens=ids(16, padded=True))
def text_gru_masked(inputs):
    """A GRU that passes over padding."""
    return layers.Dense(4)(layers.GRU(24)(layers.Embedding(VOCABULARY, 16, mask_zero=True)(inputs)))


@keras.saving.register_keras_serializable("keras_notes_zoo")
class Positions(layers.Layer):
    """Adds a trained vector for each position."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.supports_masking = True

    def build(self, input_shape):
        """One vector a position."""
        self.embeddings = self.add_weight(shape=input_shape[1:], initializer="random_normal", name="embeddings")

    def call(self, inputs):
        """The sum."""
        return inputs + self.embeddings


def _attended(inputs, memory=None, **arguments):
    """Attention before which the inputs are normalized, and to which they are added."""
    normal = layers.LayerNormalization()(inputs)
    attention = layers.MultiHeadAttention(4, WIDTH // 4)(normal, normal if memory is None else memory, **arguments)
    return layers.Add()([inputs, attention])


def _fed_forward(inputs):
    hidden = layers.Dense(2 * WIDTH, "gelu")(layers.LayerNormalization()(inputs))
    return layers.Add()([inputs, layers.Dense(WIDTH)(hidden)])


def _embedded(tokens, mask_zero=False):
    return Positions()(layers.Embedding(VOCABULARY, WIDTH, mask_zero=mask_zero)(tokens))


@MODELS.add(image=image(32))
def vit(inputs):
    """A vision transformer on 16 patches."""
    hidden = Positions()(layers.Reshape((16, WIDTH))(layers.Conv2D(WIDTH, 8, strides=8)(inputs)))
    for _ in range(2):
        hidden = _fed_forward(_attended(hidden))
    return layers.Dense(10)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(hidden)))


@MODELS.add(tokens=ids(24))
def transformer_text(inputs):
    """A transformer encoder over token ids."""
    hidden = _embedded(inputs)
    for _ in range(2):
        hidden = _fed_forward(_attended(hidden))
    return layers.Dense(4)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(hidden)))


@MODELS.add(tokens=ids(24, padded=True))
def transformer_masked(inputs):
    """The same with padding that neither attention nor pooling may see."""
    hidden = _fed_forward(_attended(_embedded(inputs, mask_zero=True)))
    return layers.Dense(4)(layers.GlobalAveragePooling1D()(layers.LayerNormalization()(hidden)))


@MODELS.add(source=ids(12), target=ids(10))
def encoder_decoder(source, target):
    """A transformer that translates: causal attention to what was said, cross attention to the source."""
    memory = layers.LayerNormalization()(_fed_forward(_attended(_embedded(source))))
    hidden = _attended(_embedded(target), use_causal_mask=True)
    hidden = _fed_forward(_attended(hidden, memory))
    return layers.Dense(VOCABULARY)(layers.LayerNormalization()(hidden))


@MODELS.add(series=field(16, WIDTH))
def rms_norm(inputs):
    """Gated feed-forward blocks with RMSNormalization, as in language models."""
    hidden = inputs
    for _ in range(2):
        normal = layers.RMSNormalization()(hidden)
        gated = layers.Multiply()([layers.Dense(2 * WIDTH, "silu")(normal), layers.Dense(2 * WIDTH)(normal)])
        hidden = layers.Add()([hidden, layers.Dense(WIDTH)(gated)])
    return layers.Dense(4)(ops.mean(layers.RMSNormalization()(hidden), axis=1))
