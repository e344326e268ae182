"""`decoding_models`: on every backend, the same as the whole model, step by step."""

import keras
import numpy as np
import pytest

from keras_notes.layers import decoding_models, decoding_samples
from keras_notes.layers._inputs import known_values
from tests.layers.decoders import PAD, SOURCES, START, talkative

pytestmark = pytest.mark.any_backend

# A block and a product with the vocabulary, summed in another order.
SAME = {"rtol": 1e-5, "atol": 1e-4}
TARGETS = np.array([[START, 4, 5, 2, 0, 0], [START, 6, 3, 5, 5, 4]], "int32")
MODERN = {"rotary": True, "norm_first": True, "normalization": "rms", "num_key_value_heads": 1, "num_layers": (1, 2)}


def logits_by_steps(models, source, target):
    """Logits (target length, vocabulary), of a prefill of the prompt and a step for each further id."""
    memory = models["encode"].predict_on_batch({"source_ids": source[None]})
    length = models["prefill"].input["prompt_ids"].shape[1]
    results = models["prefill"].predict_on_batch({"prompt_ids": target[None, :length], **memory})
    logits = [*results["logits"][0]]
    for position in range(length, len(target)):
        caches = {name.removesuffix("_next"): results[name] for name in results if name.startswith("cache")}
        step = {"target_ids": target[None, position : position + 1], "position": np.array([position], "int32")}
        results = models["decode_step"].predict_on_batch({**step, **caches, **memory})
        logits.append(results["logits"][0])
    return np.array(logits)


@pytest.mark.parametrize(
    ("arguments", "lengths"),
    [({}, {}), (MODERN, {"prompt_length": 2, "target_length": 6})],
    ids=["classic", "modern, after a prompt"],
)
def test_steps_give_what_the_whole_model_gives(arguments, lengths):
    model = talkative(**arguments)
    models = decoding_models(model, 5, **lengths)
    for source, target in zip(SOURCES[:2], TARGETS, strict=True):
        expected = known_values(model((source[None], target[None])))[0]
        np.testing.assert_allclose(logits_by_steps(models, source, target), expected, **SAME)


def test_names_and_sizes_are_fixed():
    models = decoding_models(talkative(), 5, prompt_length=2, target_length=6)
    memory = {"memory_0_keys": (1, 2, 5, 4), "memory_0_values": (1, 2, 5, 4), "source_mask": (1, 5)}
    caches = {"cache_0_keys": (1, 2, 6, 4), "cache_0_values": (1, 2, 6, 4)}
    inputs = {
        "encode": {"source_ids": (1, 5)},
        "prefill": {"prompt_ids": (1, 2), **memory},
        "decode_step": {"target_ids": (1, 1), "position": (1,), **caches, **memory},
    }
    caches_next = {f"{name}_next": shape for name, shape in caches.items()}
    outputs = {
        "encode": memory,
        "prefill": {"logits": (1, 2, 7), **caches_next},
        "decode_step": {"logits": (1, 7), **caches_next},
    }
    assert {name: shapes(model.input) for name, model in models.items()} == inputs
    assert {name: shapes(model.output) for name, model in models.items()} == outputs
    assert models["encode"].output["source_mask"].dtype == "int32"


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_stages_share_the_weights_and_survive_saving(tmp_path):
    model = talkative()
    models = decoding_models(model, 5)
    assert all({id(v) for v in stage.variables} == {id(v) for v in model.variables} for stage in models.values())
    models["decode_step"].save(tmp_path / "step.keras")
    again = keras.saving.load_model(tmp_path / "step.keras")
    values = decoding_samples(models, SOURCES[:1], TARGETS[:1], steps=1)["decode_step"]
    expected = models["decode_step"].predict_on_batch(values)
    np.testing.assert_allclose(again.predict_on_batch(values)["logits"], expected["logits"], **SAME)


def test_samples_are_what_steps_see():
    models = decoding_models(talkative(), 5, prompt_length=2)
    samples = decoding_samples(models, SOURCES[:2], TARGETS, steps=3)
    step = samples["decode_step"]
    # Of the first, whose last id stands at 3, places 2 (twice or once) and 3; of the second 2, 4 and 5.
    assert step["position"].tolist() == [2, 3, 2, 4, 5]
    assert step["target_ids"][:, 0].tolist() == [5, 2, 3, 5, 4]
    assert samples["prefill"]["prompt_ids"].tolist() == [[START, 4], [START, 6]]
    for name in ("cache_0_keys", "cache_0_values"):
        filled = np.abs(step[name]).max(axis=(1, 3)) > 0
        assert filled.sum(axis=1).tolist() == step["position"].tolist()
    first = models["encode"].predict_on_batch({"source_ids": SOURCES[:1]})
    results = models["prefill"].predict_on_batch({"prompt_ids": TARGETS[:1, :2], **first})
    for name in ("cache_0_keys", "cache_0_values"):
        np.testing.assert_allclose(step[name][:1], results[f"{name}_next"], **SAME)
    for name in ("memory_0_keys", "memory_0_values", "source_mask"):
        np.testing.assert_allclose(step[name][:1], first[name], **SAME)
        np.testing.assert_array_equal(step[name][0], step[name][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source_length": 9}, r"`source_length` must be <= 8, the `max_length` of the model\. Received: source_"),
        ({"source_length": 0}, r"`source_length` must be >= 1"),
        ({"target_length": 9}, r"`target_length` must be <= 8"),
        ({"prompt_length": 5, "target_length": 4}, r"`prompt_length` must be <= 4, the `target_length`"),
    ],
)  # fmt: skip
def test_wrong_lengths_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        decoding_models(talkative(), **{"source_length": 5, **arguments})


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        (SOURCES[:2, :4], TARGETS, r"`source_ids` must have shape \(samples, 5\)\. Received: shape \(2, 4\)"),
        (SOURCES[:1], TARGETS, r"as many samples as `source_ids`, 1, .*Received: shape \(2, 6\)"),
        (SOURCES[:2], TARGETS[:, :1], r"a length in \[2, 8\]\. Received: shape \(2, 1\)"),
        (SOURCES[:2], TARGETS + 3, r"Ids must be in \[0, 7\)\. .*ids of its vocabulary as `target_ids`"),
        (SOURCES[:0], TARGETS[:0], r"`source_ids` must have shape \(samples, length\), at least 1 each"),
    ],
)
def test_samples_of_wrong_ids_raise(sources, targets, message):
    with pytest.raises(ValueError, match=message):
        decoding_samples(decoding_models(talkative(), 5), sources, targets)


def test_another_model_raises():
    with pytest.raises(TypeError, match=r"`model` must be a Transformer\. Received: model='Sequential'"):
        decoding_models(keras.Sequential(), 5)


def test_padding_of_targets_is_no_sample():
    samples = decoding_samples(decoding_models(talkative(), 5), SOURCES[:1], TARGETS[:1], steps=9)
    assert samples["decode_step"]["position"].tolist() == [1, 2, 3]
    assert PAD not in samples["decode_step"]["target_ids"]
