"""Layers that reach a phone as the operators that it is fast at."""

from keras_notes.layers._lstm import LSTM, count_lstm_params, lstm_step

__all__ = [
    "LSTM",
    "count_lstm_params",
    "lstm_step",
]
