"""Each layer that quantization-aware training covers, on its own."""

import pytest

from tests.compression.test_quantize_aware import check_layer
from tests.compression.zoo import NETS


@pytest.mark.parametrize("name", NETS)
def test_every_layer_computes_near_its_float_self_and_its_ranges_follow(name):
    check_layer(name)
