"""The pipeline runs each program once for all recipes that share its result."""

from collections import Counter

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_notes.conversion._pipeline import ConversionPipeline
from keras_notes.conversion._recipes import parse_recipe
from keras_notes.conversion.graph._deploy_graph import deploy_graph
from keras_notes.conversion.workers._job import Job

STEPS, WIDTH = 4, 6
X = np.random.default_rng(0).normal(size=(16, STEPS, WIDTH)).astype("float32")
RECIPES = ("float32", "dynamic_int8", "static_int8", "int16x8")


@pytest.fixture
def programs(monkeypatch):
    """How often each program ran."""
    counts = Counter()
    original = Job.run

    def run(job, program, gives, **settings):
        counts[program] += 1
        return original(job, program, gives, **settings)

    monkeypatch.setattr(Job, "run", run)
    return counts


def masked():
    """A model with a mask before a softmax of a layer "attention"."""
    series = keras.Input((STEPS, WIDTH), name="series")
    attended = layers.MultiHeadAttention(1, WIDTH, name="attention")(series, series, use_causal_mask=True)
    return keras.Model(series, layers.Dense(3, name="head")(attended))


def unmasked():
    """A model without masks."""
    series = keras.Input((STEPS, WIDTH), name="series")
    return keras.Model(series, layers.Dense(3, name="head")(ops.tanh(series)))


def pipeline_of(model):
    return ConversionPipeline((deploy_graph(model),), 1, {"serving_default": {"series": X}})


@pytest.mark.parametrize(("model", "calibrations"), [(unmasked, 1), (masked, 2)])
def test_recipes_share_the_float_file_and_its_ranges(model, calibrations, programs):
    pipeline = pipeline_of(model())
    files = [pipeline.run(parse_recipe(recipe), "float32").file.to_bytes() for recipe in RECIPES]
    assert programs == {
        "_run_converter.py": 1,
        "_run_calibrator.py": calibrations,
        "_run_quantizer.py": len(RECIPES) - 1,
    }
    assert len(set(files)) == len(RECIPES)


def test_a_recipe_whose_masks_stay_has_ranges_of_its_own(programs):
    model = masked()
    pipeline = pipeline_of(model)
    lowered = pipeline.run(parse_recipe("static_int8"), "float32")
    kept = parse_recipe({"default": "static_int8", "layers": {"attention": "float32"}})
    shared = pipeline.run(kept, "float32")
    assert programs["_run_calibrator.py"] == 2, "the masks of the second recipe are those of the first calibration"
    assert lowered.reference.to_bytes() != shared.reference.to_bytes()
    alone = pipeline_of(model).run(kept, "float32")
    assert shared.file.to_bytes() == alone.file.to_bytes()
    assert shared.reference.to_bytes() == alone.reference.to_bytes()
