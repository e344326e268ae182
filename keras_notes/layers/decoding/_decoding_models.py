"""A Transformer as the models that a device decodes with, step by step; and samples for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_at_least, received
from keras_notes.layers._inputs import check_ids, check_integer_dtype
from keras_notes.layers.decoding._stages import DecodeStep, Encode, Prefill, named, state_shapes

__all__ = ["decoding_models", "decoding_samples"]


def decoding_models(
    model: Any, source_length: int, *, prompt_length: int = 1, target_length: int | None = None
) -> dict[str, keras.Model]:
    """What a device decodes with, as models that share the weights of a `Transformer`: further signatures of its file.

        encode       source_ids (1, source length)             -> memory, source_mask
        prefill      prompt_ids (1, prompt length), memory, source_mask
                                                               -> logits (1, prompt length, vocabulary), caches
        decode_step  target_ids (1, 1), position (1,), caches, memory, source_mask
                                                               -> logits (1, vocabulary), caches

    The names of inputs and outputs, for each decoder block i, counted from 0:

    - `memory_<i>_keys`, `memory_<i>_values`: what block i sees of the source;
    - `source_mask`: int32, 1 where the source is no padding (a type that the browser's runtime takes);
    - `cache_<i>_keys`, `cache_<i>_values`: what block i keeps of the target so far. As outputs, to be fed at the next
      step, they are called `cache_<i>_keys_next` and `cache_<i>_values_next`.

    Decoding encodes once, prefills the prompt (which begins with the start id) at positions from 0, and then feeds one
    id a step with its position. Of a prompt that is shorter than `prompt_length`, filled up by any ids, the last logits
    that count are those of its last id; the next `decode_step` overwrites what follows.

    All sizes are fixed, so that a step takes the same time at each position. `keras_notes.convert` makes one file of
    them and of the whole model, with each weight once:

        models = decoding_models(transformer, source_length)
        samples = decoding_samples(models, source_ids, target_ids)
        convert(transformer, directory, "dynamic_int8", signatures=models, golden=samples)

    Args:
        model: A `Transformer`.
        source_length: Of the padded source, in [1, model.max_length].
        prompt_length: Ids that are known at first, >= 1: the start id, and what a target shall begin with.
        target_length: Positions of the caches, in [prompt_length, model.max_length]. Defaults to the latter.

    Returns:
        Functional models by signature name: "encode", "prefill", "decode_step". They take and give dicts by name.

    Raises:
        TypeError: If the model is no `Transformer`.
        ValueError: If a length is out of its range.

    Example:
        >>> import numpy as np
        >>> from keras_notes.layers import Transformer
        >>> whole = Transformer(9, 7, num_layers=1, width=8, num_heads=2, hidden_width=16, max_length=6)
        >>> models = decoding_models(whole, source_length=3)
        >>> source, target = np.array([[3, 8, 0]], "int32"), np.array([[1, 4]], "int32")
        >>> memory = models["encode"].predict_on_batch({"source_ids": source})
        >>> first = models["prefill"].predict_on_batch({"prompt_ids": target[:, :1], **memory})
        >>> caches = {name.removesuffix("_next"): first[name] for name in first if name.startswith("cache")}
        >>> step = {"target_ids": target[:, 1:], "position": np.array([1], "int32"), **caches, **memory}
        >>> second = models["decode_step"].predict_on_batch(step)
        >>> bool(np.allclose(second["logits"], np.asarray(whole((source, target)))[:, 1], atol=1e-5))
        True
    """
    if not hasattr(model, "decoder_blocks"):
        raise TypeError(f"`model` must be a Transformer. {received(model=type(model).__name__)}")
    target_length = model.max_length if target_length is None else target_length
    _check_length("source_length", source_length, model.max_length, "the `max_length` of the model")
    _check_length("target_length", target_length, model.max_length, "the `max_length` of the model")
    _check_length("prompt_length", prompt_length, target_length, "the `target_length`")
    memory = {
        **state_shapes("memory", model.memory_caches(keras.KerasTensor((1, source_length, model.width)))),
        "source_mask": ((1, source_length), "int32"),
    }
    caches = state_shapes("cache", DecodeStep(model, target_length).empty_caches())
    ids = {name: ((1, length), "int32") for name, length in
           (("source_ids", source_length), ("prompt_ids", prompt_length), ("target_ids", 1))}  # fmt: skip
    return {
        "encode": _functional(Encode(model, name="encode"), {"source_ids": ids["source_ids"]}),
        "prefill": _functional(
            Prefill(model, target_length, name="prefill"), {"prompt_ids": ids["prompt_ids"], **memory}
        ),
        "decode_step": _functional(
            DecodeStep(model, target_length, name="decode_step"),
            {"target_ids": ids["target_ids"], "position": ((1,), "int32"), **caches, **memory},
        ),
    }


def decoding_samples(
    models: Mapping[str, keras.Model], source_ids: Any, target_ids: Any, *, steps: int = 4
) -> dict[str, Any]:
    """Samples of each signature, as `keras_notes.convert` takes them to calibrate and to keep as golden samples.

    They are what the device will see while it decodes these targets: the caches of a step hold the positions before it,
    and zeros behind.

    Args:
        models: What `decoding_models` gives.
        source_ids: Shape (samples, source length).
        target_ids: What the decoder reads, of shape (samples, target length): from the start id on, padded behind the
            last id; longer than the prompt, no longer than the caches.
        steps: How many positions of each target "decode_step" is sampled at, >= 1, evenly from behind the prompt to the
            last id. A sample holds all caches; golden samples of them are large files.

    Returns:
        By signature, "serving_default" among them, a dict of arrays by input name; for "serving_default", whose inputs
        have no names, a list.

    Raises:
        ValueError: If a shape does not fit to the models, or an id to the vocabulary.
        TypeError: If ids are no integers.

    Example:
        >>> import numpy as np
        >>> from keras_notes.layers import Transformer
        >>> whole = Transformer(9, 7, num_layers=1, width=8, num_heads=2, hidden_width=16, max_length=6)
        >>> samples = decoding_samples(decoding_models(whole, 3), np.array([[3, 8, 0]]), np.array([[1, 4, 2]]))
        >>> samples["decode_step"]["position"].tolist()
        [1, 2]
    """
    stage = next(layer for layer in models["decode_step"].layers if isinstance(layer, DecodeStep))
    model, prompt_length = stage.transformer, models["prefill"].input["prompt_ids"].shape[1]
    sources = _checked_ids("source_ids", source_ids, model.source_vocabulary_size)
    targets = _checked_ids("target_ids", target_ids, model.target_vocabulary_size)
    wanted = (len(sources), models["encode"].input["source_ids"].shape[1])
    if sources.shape != wanted:
        raise ValueError(f"`source_ids` must have shape (samples, {wanted[1]}). Received: shape {sources.shape}.")
    if len(targets) != len(sources) or not prompt_length < targets.shape[1] <= stage.target_length:
        raise ValueError(
            f"`target_ids` must have as many samples as `source_ids`, {len(sources)}, and a length in "
            f"[{prompt_length + 1}, {stage.target_length}]. Received: shape {targets.shape}."
        )
    memory = model.memory_caches(model.encode(sources))
    mask = model.source_mask(sources)
    _, caches = model.step(targets, stage.empty_caches(len(targets)), memory, 0, mask)
    seen = {name: ops.convert_to_numpy(array) for name, array in named("memory", memory).items()}
    seen["source_mask"] = ops.convert_to_numpy(mask).astype("int32")
    kept = {name: ops.convert_to_numpy(array) for name, array in named("cache", caches).items()}
    rows, positions = _places(targets, model.pad_id, prompt_length, check_at_least("steps", steps, 1))
    is_before = np.arange(stage.target_length)[:, None] < positions[:, None, None, None]
    return {
        "serving_default": [sources, targets],
        "encode": {"source_ids": sources},
        "prefill": {"prompt_ids": targets[:, :prompt_length], **seen},
        "decode_step": {
            "target_ids": targets[rows, positions][:, None],
            "position": positions.astype("int32"),
            **{name: np.where(is_before, array[rows], np.zeros((), array.dtype)) for name, array in kept.items()},
            **{name: array[rows] for name, array in seen.items()},
        },
    }


def _functional(stage: keras.Layer, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> keras.Model:
    inputs = {name: keras.Input(batch_shape=shape, dtype=dtype, name=name) for name, (shape, dtype) in shapes.items()}
    # An output is called as the layer that gives it.
    outputs = {name: keras.layers.Identity(name=name)(tensor) for name, tensor in stage(inputs).items()}
    return keras.Model(inputs, outputs, name=stage.name)


def _places(targets: np.ndarray, pad_id: int, first: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and positions of the samples of steps."""
    places = [
        (row, position)
        for row, target in enumerate(targets)
        for position in np.unique(np.linspace(first, max(first, _last(target, pad_id)), steps).round().astype(int))
    ]
    rows, positions = np.array(places).T
    return rows, positions


def _last(target: np.ndarray, pad_id: int) -> int:
    """The position of the last id that is no padding."""
    return int(np.flatnonzero(target != pad_id).max(initial=0))


def _checked_ids(name: str, ids: Any, vocabulary_size: int) -> np.ndarray:
    array = np.asarray(ids)
    check_integer_dtype(array)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"`{name}` must have shape (samples, length), at least 1 each. Received: shape {array.shape}.")
    check_ids(array, vocabulary_size, f"Give ids of its vocabulary as `{name}`.")
    return array.astype("int32")


def _check_length(name: str, value: Any, most: int, what: str) -> None:
    if check_at_least(name, value, 1) > most:
        raise ValueError(f"`{name}` must be <= {most}, {what}. {received(**{name: value})}")
