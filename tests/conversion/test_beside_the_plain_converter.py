"""Integer files beside TFLiteConverter's own: not more operators, not more bytes, not larger errors.

All nets of one layer with the same inputs are one model here, with an output each, because a conversion takes seconds;
`python -m benchmarks conversion converter` converts each net by itself.
"""

import dataclasses

import keras
import pytest

from tests.compression.zoo import NETS, samples
from tests.support.plain_converter import SIGNATURE_BYTES, Figures, compare, is_worse

# Layers whose file is not better, each with the reason.
EXCEPTIONS = {
    "LSTM": "unrolled, where the converter keeps a loop in floating point",
    "LSTM, sequences": "unrolled, where the converter keeps a loop in floating point",
    "GRU": "unrolled, where the converter keeps a loop in floating point",
    "SimpleRNN": "unrolled, where the converter keeps a loop in floating point",
    "Bidirectional": "unrolled, where the converter keeps a loop in floating point",
}
# Inputs of this rank are volumes, whose layers both converters leave in floating point, or cannot convert; `convert`
# refuses them in integers, and `quantize_aware` computes them frame by frame.
VOLUME_RANK = 5
SAME = Figures(operators=5, float_operators=0, bytes=1000, errors=(0.01,))


def merged(names) -> keras.Model:
    """Returns one model of several nets with inputs of the same shape."""
    keras.utils.set_random_seed(0)
    inputs, outputs = None, []
    for name in names:
        net = NETS[name]()
        inputs = inputs if inputs is not None else keras.Input(net.input_shape[1:], dtype=net.inputs[0].dtype)
        net.name = "".join(letter if letter.isalnum() else "_" for letter in name)
        outputs.append(net(inputs))
    return keras.Model(inputs, outputs)


def groups() -> dict[str, list[str]]:
    by_input: dict[str, list[str]] = {}
    for name, build in NETS.items():
        net = build()
        if name not in EXCEPTIONS and len(net.inputs) == 1 and len(net.input_shape) < VOLUME_RANK:
            by_input.setdefault(f"{net.input_shape[1:]} {net.inputs[0].dtype}", []).append(name)
    return by_input


@pytest.mark.slow
def test_no_layer_is_worse_than_in_the_file_of_the_plain_converter():
    worse = {}
    for names in groups().values():
        model = merged(names)
        ours, plain = compare(model, samples(model, 60), samples(model, 24, seed=1))
        if is_worse(ours, plain):
            worse[", ".join(names)] = (ours, plain)
    assert worse == {}


@pytest.mark.parametrize(
    "change",
    [
        {"operators": 6},
        {"bytes": 1001 + SIGNATURE_BYTES},
        {"float_operators": 1},
        {"errors": (0.02,)},
        {"errors": None},
    ],
)
def test_a_worse_file_is_noticed(change):
    assert not is_worse(SAME, SAME)
    assert is_worse(dataclasses.replace(SAME, **change), SAME)
    assert not is_worse(SAME, dataclasses.replace(SAME, errors=None))
