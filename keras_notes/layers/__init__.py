"""Layers that a phone runs fast after conversion, built from `keras.ops` and Keras's own layers.

inputs        OneHot, PositionalEncoding; one_hot, sinusoidal
recurrence    LSTM; lstm_step, count_lstm_params
attention     MultiHeadAttention; scaled_dot_product_attention, rotary_angles, apply_rotary
Transformers  TransformerEncoder and TransformerDecoder (one block each), Transformer (the whole model)
decoding      generate; decoding_models, decoding_samples for the device
"""

from keras_notes.layers._attention import scaled_dot_product_attention
from keras_notes.layers._decoder import TransformerDecoder
from keras_notes.layers._encoder import TransformerEncoder
from keras_notes.layers._lstm import LSTM, count_lstm_params, lstm_step
from keras_notes.layers._multi_head_attention import MultiHeadAttention
from keras_notes.layers._one_hot import OneHot, one_hot
from keras_notes.layers._positional_encoding import PositionalEncoding, sinusoidal
from keras_notes.layers._rotary import apply_rotary, rotary_angles
from keras_notes.layers._transformer import Transformer
from keras_notes.layers.decoding._decoding_models import decoding_models, decoding_samples
from keras_notes.layers.decoding._generate import generate

__all__ = [
    "LSTM",
    "MultiHeadAttention",
    "OneHot",
    "PositionalEncoding",
    "Transformer",
    "TransformerDecoder",
    "TransformerEncoder",
    "apply_rotary",
    "count_lstm_params",
    "decoding_models",
    "decoding_samples",
    "generate",
    "lstm_step",
    "one_hot",
    "rotary_angles",
    "scaled_dot_product_attention",
    "sinusoidal",
]
