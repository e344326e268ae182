"""Models of a Transformer with which a device decodes step by step, and samples of their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_at_least, received
from keras_notes._shared.types import ArrayLike
from keras_notes.layers._inputs import check_ids, check_integer_dtype
from keras_notes.layers._transformer import Transformer
from keras_notes.layers.decoding._stages import ArraySpec, DecodeStep, Encode, Prefill, name_caches, state_specs

__all__ = ["decoding_models", "decoding_samples"]

Samples: TypeAlias = dict[str, dict[str, np.ndarray] | list[np.ndarray]]
"""Arrays of each signature: by the name of the input, or in the order of the inputs where they have no names."""


def decoding_models(
    model: Transformer, source_length: int, *, prompt_length: int = 1, target_length: int | None = None
) -> dict[str, keras.Model]:
    """Makes the models of a `Transformer` with which a device decodes: further signatures of its file.

        encode       source_ids (1, source length)             -> memory, source_mask
        prefill      prompt_ids (1, prompt length), memory, source_mask
                                                               -> logits (1, prompt length, vocabulary), caches
        decode_step  target_ids (1, 1), position (1,), caches, memory, source_mask
                                                               -> logits (1, vocabulary), caches

    The models share the weights of the `Transformer`. The names of inputs and outputs, for each decoder block i,
    counted from 0:

    - `memory_<i>_keys`, `memory_<i>_values`: keys and values of the source in block i;
    - `source_mask`: int32, 1 where the source is not padding (a type that the browser's runtime accepts);
    - `cache_<i>_keys`, `cache_<i>_values`: keys and values of the target so far in block i. As outputs, which are the
      inputs of the next step, they are called `cache_<i>_keys_next` and `cache_<i>_values_next`.

    To decode, a device encodes once, prefills the prompt (which begins with the start id) at positions from 0, and then
    runs one step for each further id with its position. A prompt that is shorter than `prompt_length` may be filled up
    by any ids: the logits to use are those of its last id, and the next steps overwrite what follows.

    All sizes are fixed, so that a step takes the same time at each position. `keras_notes.convert` makes one file of
    these models and of the whole model, which contains each weight once:

        models = decoding_models(transformer, source_length)
        samples = decoding_samples(models, source_ids, target_ids)
        convert(transformer, directory, "dynamic_int8", signatures=models, golden=samples)

    Args:
        model: A `Transformer`.
        source_length: Length of the padded source in ids, in [1, model.max_length].
        prompt_length: Length of the prompt in ids, >= 1: the start id, and the ids that a target begins with.
        target_length: Number of positions of the caches, in [prompt_length, model.max_length]. Defaults to
            `model.max_length`.

    Returns:
        Functional models by signature name: "encode", "prefill", "decode_step". Inputs and outputs are dicts by name.

    Raises:
        TypeError: If the model is not a `Transformer`, or a length is not an integer.
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
    source_spec = ArraySpec((1, source_length), "int32")
    memory = {
        **state_specs("memory", model.memory_caches(keras.KerasTensor((1, source_length, model.width)))),
        "source_mask": source_spec,
    }
    caches = state_specs("cache", DecodeStep(model, target_length).empty_caches())
    prompt = {"prompt_ids": ArraySpec((1, prompt_length), "int32")}
    step = {"target_ids": ArraySpec((1, 1), "int32"), "position": ArraySpec((1,), "int32")}
    return {
        "encode": _functional_model(Encode(model, name="encode"), {"source_ids": source_spec}),
        "prefill": _functional_model(Prefill(model, target_length, name="prefill"), {**prompt, **memory}),
        "decode_step": _functional_model(
            DecodeStep(model, target_length, name="decode_step"), {**step, **caches, **memory}
        ),
    }


def decoding_samples(
    models: Mapping[str, keras.Model], source_ids: ArrayLike, target_ids: ArrayLike, *, steps: int = 4
) -> Samples:
    """Makes samples of the inputs of each signature, for `keras_notes.convert` to calibrate and to keep as golden ones.

    They are the inputs of a device that decodes these targets: the caches of a step hold the positions before it, and
    zeros behind.

    Args:
        models: Models from `decoding_models`.
        source_ids: Integers of shape (samples, source length).
        target_ids: Inputs of the decoder, integers of shape (samples, target length): from the start id on, padded
            behind the last id; longer than the prompt, not longer than the caches.
        steps: Number of positions of each target at which "decode_step" is sampled, >= 1, at equal distances from
            behind the prompt to the last id. Each sample contains all caches: golden samples of them are large files.

    Returns:
        For each signature, "serving_default" among them, a dict of arrays by input name; for "serving_default", whose
        inputs have no names, a list.

    Raises:
        TypeError: If ids are not integers.
        ValueError: If a shape does not match the models, or an id is not in the vocabulary.

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
    sources = _check_id_array("source_ids", source_ids, model.source_vocabulary_size)
    targets = _check_id_array("target_ids", target_ids, model.target_vocabulary_size)
    source_length = models["encode"].input["source_ids"].shape[1]
    if sources.shape[1] != source_length:
        raise ValueError(f"`source_ids` must have shape (samples, {source_length}). Received: shape {sources.shape}.")
    if len(targets) != len(sources) or not prompt_length < targets.shape[1] <= stage.target_length:
        raise ValueError(
            f"`target_ids` must have as many samples as `source_ids`, {len(sources)}, and a length in "
            f"[{prompt_length + 1}, {stage.target_length}]. Received: shape {targets.shape}."
        )
    memory = model.memory_caches(model.encode(sources))
    mask = model.source_mask(sources)
    _, caches = model.step(targets, stage.empty_caches(len(targets)), memory, 0, mask)
    memory_arrays = {name: ops.convert_to_numpy(array) for name, array in name_caches("memory", memory).items()}
    memory_arrays["source_mask"] = ops.convert_to_numpy(mask).astype("int32")
    cache_arrays = {name: ops.convert_to_numpy(array) for name, array in name_caches("cache", caches).items()}
    rows, positions = _step_positions(targets, model.pad_id, prompt_length, check_at_least("steps", steps, 1))
    is_before = np.arange(stage.target_length)[:, None] < positions[:, None, None, None]
    return {
        "serving_default": [sources, targets],
        "encode": {"source_ids": sources},
        "prefill": {"prompt_ids": targets[:, :prompt_length], **memory_arrays},
        "decode_step": {
            "target_ids": targets[rows, positions][:, None],
            "position": positions.astype("int32"),
            **{
                name: np.where(is_before, array[rows], np.zeros((), array.dtype))
                for name, array in cache_arrays.items()
            },
            **{name: array[rows] for name, array in memory_arrays.items()},
        },
    }


def _functional_model(stage: keras.Layer, specs: Mapping[str, ArraySpec]) -> keras.Model:
    inputs = {name: keras.Input(batch_shape=spec.shape, dtype=spec.dtype, name=name) for name, spec in specs.items()}
    # Keras names an output after the layer that it comes from.
    outputs = {name: keras.layers.Identity(name=name)(tensor) for name, tensor in stage(inputs).items()}
    return keras.Model(inputs, outputs, name=stage.name)


def _step_positions(targets: np.ndarray, pad_id: int, first: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and positions of the targets at which steps are sampled."""
    pairs = [
        (row, position)
        for row, target in enumerate(targets)
        for position in np.unique(
            np.linspace(first, max(first, _last_position(target, pad_id)), steps).round().astype(int)
        )
    ]
    rows, positions = np.array(pairs).T
    return rows, positions


def _last_position(target: np.ndarray, pad_id: int) -> int:
    """Returns the position of the last id that is not padding."""
    return int(np.flatnonzero(target != pad_id).max(initial=0))


def _check_id_array(name: str, ids: ArrayLike, vocabulary_size: int) -> np.ndarray:
    """Returns ids as an int32 array of shape (samples, length), whose ids must be in the vocabulary."""
    array = np.asarray(ids)
    check_integer_dtype(array)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"`{name}` must have shape (samples, length), at least 1 each. Received: shape {array.shape}.")
    check_ids(array, vocabulary_size, f"Give ids of its vocabulary as `{name}`.")
    return array.astype("int32")


def _check_length(name: str, value: int, maximum: int, maximum_name: str) -> None:
    if check_at_least(name, value, 1) > maximum:
        raise ValueError(f"`{name}` must be <= {maximum}, {maximum_name}. {received(**{name: value})}")
