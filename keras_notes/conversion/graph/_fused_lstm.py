"""The fused form of an LSTM: one operator, UNIDIRECTIONAL_SEQUENCE_LSTM.

LiteRT's converter replaces a function by that operator if the function's attributes say that it is an LSTM. The
function needs the arguments and the five results that it has in TensorFlow's own Keras layer. The attributes are not a
stable interface of TensorFlow: tests/conversion/graph/test_recurrent_lowerings.py notices if they change.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import keras
from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.errors import ConversionError
from keras_notes.layers import lstm_step

__all__ = ["check_fusible", "is_fusible", "make_fused_call"]


_MUST = (
    "A fused layer must be an LSTM that starts from zeros, sees every step, gives outputs only, and has biases, tanh "
    "and sigmoid."
)
_REMEDY = "Use the lowering 'loop', or 'unrolled' where the layer computes in integers."


def make_fused_call(layer: keras.layers.LSTM) -> Callable[..., Tensor]:
    """Returns a replacement for the `call` of an LSTM. On the TensorFlow backend only.

    The operator starts from a state of zeros, clips the cell state to [-10, 10], and leaves both states to the next
    call, unless the runtime is told to reset its variables.
    """
    # Keras has no such function attributes, and this runs only where its tensors are TensorFlow's.
    import tensorflow as tf

    weights = [ops.convert_to_numpy(weight) for weight in layer.cell.weights]
    function = tf.function(
        _steps,
        autograph=False,
        experimental_attributes={
            "api_implements": f"lstm_{uuid.uuid4()}",
            "api_preferred_device": "CPU",
            "go_backwards": False,
            "time_major": False,
        },
    )

    def call(sequences: Tensor, initial_state: Tensor = None, mask: Tensor = None, training: bool = False) -> Tensor:
        if initial_state is not None or mask is not None:
            raise ConversionError(f"{_MUST} Received: {layer.name!r} with an initial state or a mask. {_REMEDY}")
        if layer.go_backwards:
            sequences = ops.flip(sequences, axis=1)
        zeros = ops.zeros((ops.shape(sequences)[0], layer.units))
        last, outputs, *_ = function(sequences, zeros, zeros, *weights)
        return outputs if layer.return_sequences else last

    return call


def _steps(
    sequences: Tensor, hidden: Tensor, carry: Tensor, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor
) -> tuple[Tensor, ...]:
    outputs = []
    for inputs in ops.unstack(sequences, axis=1):
        hidden, carry = lstm_step(ops.matmul(inputs, kernel) + bias, hidden, carry, recurrent_kernel)
        outputs.append(hidden)
    return hidden, ops.stack(outputs, axis=1), hidden, carry, ops.convert_to_tensor(0.0)


def check_fusible(layer: keras.layers.RNN) -> None:
    """Raises ConversionError if the operator would compute something else than the layer."""
    if not isinstance(layer, keras.layers.LSTM):
        raise ConversionError(f"{_MUST} Received: {layer.name!r} ({type(layer).__name__}). {_REMEDY}")
    differences = {
        "stateful=True": layer.stateful,
        "return_state=True": layer.return_state,
        "use_bias=False": not layer.use_bias,
        f"activation={_name(layer.activation)!r}": _name(layer.activation) != "tanh",
        f"recurrent_activation={_name(layer.recurrent_activation)!r}": _name(layer.recurrent_activation) != "sigmoid",
    }
    if wrong := [what for what, is_so in differences.items() if is_so]:
        raise ConversionError(f"{_MUST} Received: {layer.name!r} with {', '.join(wrong)}. {_REMEDY}")


def is_fusible(layer: keras.layers.RNN) -> bool:
    """Returns whether the operator computes the same as the layer, as far as the layer alone shows it."""
    try:
        check_fusible(layer)
    except ConversionError:
        return False
    return True


def _name(activation: Callable) -> str:
    return getattr(activation, "__name__", str(activation))
