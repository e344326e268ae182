"""Options of a training in TF-MOT's process: checked when they are made, and plain for JSON."""

import json

import numpy as np
import pytest

from keras_notes.compression.tfmot._training_options import TrainingOptions

pytestmark = pytest.mark.any_backend

OPTIONS = {
    "steps": 10,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "loss": "mean_squared_error",
    "from_logits": False,
    "seed": 7,
}


def test_settings_are_the_options():
    assert TrainingOptions(**OPTIONS).to_settings() == OPTIONS


def test_settings_of_numpy_numbers_can_be_written_as_json():
    numbers = {"steps": np.int64(10), "batch_size": np.int32(4), "learning_rate": np.float32(0.5), "seed": np.int64(7)}
    settings = TrainingOptions(**{**OPTIONS, **numbers}).to_settings()
    assert json.loads(json.dumps(settings)) == {**OPTIONS, "learning_rate": 0.5}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": -1}, ValueError, "`steps` must be >= 0"),
        ({"steps": 0, "minimum_steps": 1}, ValueError, "`steps` must be >= 1"),
        ({"steps": 2.5}, TypeError, "`steps` must be an integer"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be >= 1"),
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be > 0"),
        ({"loss": "hinge"}, ValueError, "`loss` must be one of 'binary_crossentropy'"),
        ({"from_logits": "yes"}, ValueError, "`from_logits` must be one of True, False"),
        ({"seed": -1}, ValueError, "`seed` must be >= 0"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        TrainingOptions(**{**OPTIONS, **options})
