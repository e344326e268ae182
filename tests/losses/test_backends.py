"""The choice between two formulas: known conditions run one of them, unknown ones are left to the backend."""

import numpy as np
import pytest
from keras import ops

from keras_notes.losses._maths.backends import branch, upstream_gradient
from tests.support.gradients import value_and_gradient

pytestmark = pytest.mark.any_backend


def test_the_upstream_gradient_is_the_keyword_or_the_only_argument():
    assert upstream_gradient((), 2.0) == 2.0
    assert upstream_gradient((3.0,), None) == 3.0


@pytest.mark.parametrize("is_true", [True, False])
def test_a_known_condition_runs_one_function_only(is_true):
    ran = []
    branch(ops.convert_to_tensor(is_true), lambda: ran.append(True), lambda: ran.append(False))
    assert ran == [is_true]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("x", "expected"), [(3.0, (9.0, 6.0)), (-3.0, (3.0, -1.0))])
def test_value_and_gradient_are_those_of_the_function_that_is_chosen(x, expected, compiled):
    def square_or_negative(x):
        return branch(x > 0, lambda: ops.square(x), lambda: -x)

    actual = value_and_gradient(square_or_negative, np.float32(x), compiled=compiled)
    np.testing.assert_allclose(actual, expected)
