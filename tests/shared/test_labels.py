"""Class ids are checked against the outputs of the model."""

import numpy as np
import pytest

from keras_notes._shared.labels import check_labels


@pytest.mark.any_backend
def test_class_ids_in_range_are_returned_as_an_array():
    np.testing.assert_array_equal(check_labels([0, 2, 1], [(3,)]), [0, 2, 1])


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("y", "shapes", "message"),
    [
        ([0, 1], [(3,), (3,)], r"one output\. Received: 2 outputs"),
        ([0, 1], [(3, 3)], r"shape \(1, classes\)\. Received: shape=\(1, 3, 3\)"),
        ([0, 1], [(1,)], r"shape \(1, classes\)\. Received: shape=\(1, 1\)"),
        ([0.0, 1.0], [(3,)], r"integers of shape \(samples,\)\. Received: dtype float64 and shape \(2,\)"),
        ([[0], [1]], [(3,)], r"Received: dtype int64 and shape \(2, 1\)"),
        ([], [(3,)], r"integers of shape \(samples,\)"),
        ([0, 3, -1], [(3,)], r"class ids in \[0, 3\)\. Received: 3 \(2 of 3 are out of range\)"),
    ],
)
def test_other_values_are_refused(y, shapes, message):
    with pytest.raises(ValueError, match=message):
        check_labels(y, shapes)
