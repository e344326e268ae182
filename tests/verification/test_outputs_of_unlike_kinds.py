"""Verdicts on files with outputs that no single error describes: unlike channels, and integers such as class ids."""

import json

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes import errors
from keras_notes.bundle import open_bundle
from tests.support.bundles import copied, edit_manifest, rewrite, run_device

IMAGES = np.random.default_rng(0).random((128, 8, 8, 3)).astype("float32")
GOLDEN_IDS = "golden/serving_default.output.output.bin"


def detector():
    """The tensors of a net: its inputs, its features, boxes of 0 to 640 and scores of 0 to 1."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    boxes = keras.ops.sigmoid(keras.layers.Conv2D(4, 1)(features)) * 640.0
    scores = keras.ops.sigmoid(keras.layers.Conv2D(2, 1)(features) - 2)
    return inputs, features, boxes, scores


def test_a_detector_whose_scores_are_lost_fails_and_with_outputs_of_their_own_passes(tmp_path):
    inputs, features, boxes, scores = detector()
    together = keras.Model(inputs, [keras.ops.concatenate([boxes, scores], -1), keras.ops.mean(features, (1, 2))])
    bundle = kn.convert(together, tmp_path / "together", calibration=IMAGES)
    with pytest.raises(errors.VerificationError, match=r"the channels 4-5 \(axis 3\).*outputs of their own") as caught:
        kn.verify(bundle)
    assert len(caught.value.report.failures) == 1
    assert kn.verify(kn.convert(keras.Model(inputs, [boxes, scores]), tmp_path / "apart", calibration=IMAGES)).ok
    assert kn.verify(kn.convert(together, tmp_path / "dynamic", "dynamic_int8", golden=IMAGES[:32])).ok


@pytest.fixture(scope="module")
def ids(tmp_path_factory):
    """A bundle whose output is a map of 6 x 6 ids, 0 to 900."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    outputs = keras.ops.cast(keras.layers.Conv2D(1, 3)(inputs) > 0, "int32") * 900
    return kn.convert(keras.Model(inputs, outputs), tmp_path_factory.mktemp("ids") / "bundle", "dynamic_int8",
                      golden=IMAGES[:32])  # fmt: skip


def shifted(ids, tmp_path, share):
    """A copy of the bundle in which a share of the golden ids is one more: a small error of magnitude."""
    directory = copied(ids, tmp_path / "bundle")
    values = np.fromfile(directory / GOLDEN_IDS, "<i4")
    values[: int(share * len(values))] += 1
    rewrite(directory, GOLDEN_IDS, values.tobytes())
    return directory


def test_ids_are_judged_by_the_share_that_agrees(ids, tmp_path):
    (output,) = kn.verify(ids).outputs
    assert output.agreement > 0.99
    assert output.top1_agreement is None
    assert "of the integers agree" in str(kn.verify(ids))
    few, many = shifted(ids, tmp_path / "few", 0.05), shifted(ids, tmp_path / "many", 0.5)
    assert kn.verify(few).ok
    with pytest.raises(errors.VerificationError, match=r"must agree .* of at least 0\.834\. Received: 0\.5"):
        kn.verify(many)
    # The runner of the device says the same, and no class of the last axis.
    assert run_device(few).returncode == 0
    refused = run_device(many)
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["top1_agreement"] is None


def test_a_bundle_of_an_earlier_version_is_judged_as_it_was(ids, tmp_path):
    directory = shifted(ids, tmp_path, 0.5)
    edit_manifest(directory, lambda manifest: manifest["tolerance"].pop("agreement"))
    assert open_bundle(directory).manifest.tolerance.agreement is None
    assert kn.verify(directory).ok
    assert run_device(directory).returncode == 0


def test_a_bundle_without_ids_has_no_limit_for_them(net, tmp_path):
    bundle = kn.convert(net, tmp_path / "bundle", "float32")
    assert "agreement" not in json.loads((bundle.directory / "model.json").read_text())["tolerance"]
