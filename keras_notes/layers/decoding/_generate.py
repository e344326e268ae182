"""`generate`: decoding of target ids from source ids by a trained Transformer."""

from __future__ import annotations

import random

import numpy as np

from keras_notes._shared.checks import (
    check_at_least,
    check_between,
    check_integer,
    check_non_negative,
    check_positive,
    received,
)
from keras_notes._shared.types import ArrayLike
from keras_notes.layers._inputs import check_ids, check_integer_dtype
from keras_notes.layers.decoding._generator import DecodingModel, Generator, SearchOptions

__all__ = ["generate"]

# Number of compiled searches that a model keeps: the most recent ones.
_MAX_GENERATORS = 8
_METHODS = ("encode", "source_mask", "memory_caches", "start_caches", "step", "max_length", "pad_id")


def generate(
    model: DecodingModel,
    source_ids: ArrayLike,
    *,
    start_id: int,
    end_id: int,
    max_length: int | None = None,
    beam_width: int = 1,
    length_penalty: float = 0.0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    batch_size: int = 32,
    return_scores: bool = False,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Decodes the target ids of a `Transformer` for source ids, one after the other, with caches.

    - Greedy search, the default: each id is the most probable one.
    - Beam search, with `beam_width` > 1: the ids with the largest score of a search that continues the `beam_width`
      most probable beginnings.
    - Sampling, if `temperature` is not 1 or any of `top_k`, `top_p` and `seed` is given: each id is drawn from

          p = softmax over the top_k largest of  logits / temperature

      restricted to the fewest ids, in descending order of p, whose p sum up to `top_p` or more.

    The score of ids is

        log P(ids | source) / ((5 + length) / 6) ^ length_penalty

    where P is the probability by the model itself (without temperature, top_k and top_p), and length the number of ids,
    `end_id` included.

    Keras compiles the search: once for each shape of a batch and each set of arguments other than `seed`. So pad
    sources to a few lengths, not to many. (On PyTorch, the search is not compiled.)

    Args:
        model: A `Transformer`, or a `keras.Model` with the same `encode`, `source_mask`, `memory_caches`,
            `start_caches`, `step`, `max_length` and `pad_id`.
        source_ids: Integers of shape (samples, source length), padded with the model's `pad_id`.
        start_id: Id before the first id of a target; not included in the results.
        end_id: Id that ends a target.
        max_length: Largest number of ids of a target, `end_id` included, in [1, model.max_length]. Defaults to
            `model.max_length`.
        beam_width: Number of beginnings that beam search continues, >= 1.
        length_penalty: Exponent in the score, >= 0. At 0, beam search prefers short targets; 0.6 to 1 is usual.
        temperature: Temperature of sampling, > 0. Below 1, probable ids become more probable.
        top_k: Number of largest logits to sample from, >= 1; None for all.
        top_p: Sum of the probabilities to sample from, in (0, 1]; None for all.
        seed: Seed of sampling, >= 0. Equal seeds give equal ids, on every backend and for every `batch_size`. None for
            a random seed, which `keras.utils.set_random_seed` controls.
        batch_size: Number of samples that are decoded at once, >= 1. The last batch is filled up, so that it needs no
            compilation of its own.
        return_scores: Whether to return the scores, too.

    Returns:
        A NumPy array of ids (samples, max_length), int32: `end_id` included, `pad_id` behind it. A target that did not
        end within `max_length` has no `end_id`. With `return_scores` a tuple of the ids and scores (samples,).

    Raises:
        TypeError: If ids are not integers, a number has the wrong type, or the model lacks a method.
        ValueError: If an argument is out of its range, or a source is empty or too long.

    Example:
        >>> import numpy as np
        >>> from keras_notes.layers import Transformer
        >>> model = Transformer(9, 7, num_layers=1, width=8, num_heads=2, hidden_width=16, max_length=6)
        >>> ids, scores = generate(
        ...     model, np.array([[3, 8, 0], [5, 0, 0]]), start_id=1, end_id=2, beam_width=2, return_scores=True
        ... )
        >>> ids.shape, scores.shape
        ((2, 6), (2,))

    References:
        Wu et al. 2016, Google's Neural Machine Translation System, section 7, equation 14, without its coverage
        penalty (https://arxiv.org/abs/1609.08144).
        Fan et al. 2018, Hierarchical Neural Story Generation, section 5.4 (https://arxiv.org/abs/1805.04833).
        Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, section 3.1
        (https://arxiv.org/abs/1904.09751).
    """
    if missing := [name for name in _METHODS if not hasattr(model, name)]:
        raise TypeError(f"`model` must be a Transformer. Received: {type(model).__name__} without {missing[0]!r}.")
    sources = _check_sources(model, source_ids)
    is_sampling = temperature != 1.0 or any(option is not None for option in (top_k, top_p, seed))
    options = SearchOptions(
        start_id=_check_id(model, "start_id", start_id),
        end_id=_check_id(model, "end_id", end_id),
        max_length=_check_max_length(model, max_length),
        beam_width=check_at_least("beam_width", beam_width, 1),
        length_penalty=check_non_negative("length_penalty", length_penalty),
        temperature=check_positive("temperature", temperature),
        top_k=None if top_k is None else check_at_least("top_k", top_k, 1),
        top_p=None if top_p is None else _check_top_p(top_p),
        is_sampling=is_sampling,
    )
    if is_sampling and options.beam_width > 1:
        raise ValueError(
            f"`beam_width` must be 1 for sampling, which a temperature, top_k, top_p or seed asks for. "
            f"{received(beam_width=beam_width, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)}"
        )
    arrays = [sources]
    if is_sampling:
        arrays.append(_uniform_numbers(seed, (len(sources), options.max_length)))
    results = _decode_batches(model, options, arrays, check_at_least("batch_size", batch_size, 1))
    return (results["ids"], results["scores"]) if return_scores else results["ids"]


def _decode_batches(
    model: DecodingModel, options: SearchOptions, arrays: list[np.ndarray], batch_size: int
) -> dict[str, np.ndarray]:
    count = len(arrays[0])
    size = min(batch_size, count)
    generator = _generator_for(model, options, (size, arrays[0].shape[1]))
    batches = []
    for start in range(0, count, size):
        # The last batch repeats the last sample: unlike other filling, it cannot take more steps than the samples.
        rows = np.minimum(np.arange(start, start + size), count - 1)
        batches.append(generator.predict_on_batch(tuple(array[rows] for array in arrays)))
    return {name: np.concatenate([batch[name] for batch in batches])[:count] for name in batches[0]}


class _Generators(dict):
    """The compiled searches of a model. A plain dict would make Keras track them as parts of the model."""


def _generator_for(model: DecodingModel, options: SearchOptions, shape: tuple[int, int]) -> Generator:
    """Returns the compiled search of the model for these options and this shape of a batch."""
    # By `vars`, because setattr would track it. The key has the variables, because LoRA, for example, changes them.
    generators = vars(model).setdefault("_generators", _Generators())
    key = (options, shape, tuple(map(id, model.variables)))
    generator = generators.pop(key, None) or Generator(model, options)
    generators[key] = generator
    while len(generators) > _MAX_GENERATORS:
        del generators[next(iter(generators))]
    return generator


def _uniform_numbers(seed: int | None, shape: tuple[int, int]) -> np.ndarray:
    """Returns random numbers in [0, 1), equal on every backend and for every size of a batch."""
    seed = random.randint(0, 2**31 - 1) if seed is None else check_at_least("seed", seed, 0)
    return np.random.default_rng(seed).random(shape, "float32")


def _check_sources(model: DecodingModel, source_ids: ArrayLike) -> np.ndarray:
    sources = np.asarray(source_ids)
    check_integer_dtype(sources)
    if sources.ndim != 2 or 0 in sources.shape:
        raise ValueError(
            f"`source_ids` must have shape (samples, source length), at least 1 each. Received: shape {sources.shape}."
        )
    if sources.shape[1] > model.max_length:
        raise ValueError(
            f"Sources must be no longer than the model's `max_length`, {model.max_length}. "
            f"Received: shape {sources.shape}."
        )
    if hasattr(model, "source_vocabulary_size"):
        check_ids(sources, model.source_vocabulary_size, "Give ids of the source vocabulary.")
    if (empty := (sources == model.pad_id).all(axis=1)).any():
        raise ValueError(
            f"Each source must have an id besides `pad_id`. Received: {int(empty.sum())} empty sources, the first at "
            f"{int(empty.argmax())}. Leave them out."
        )
    return sources.astype("int32")


def _check_id(model: DecodingModel, name: str, value: int) -> int:
    value = check_integer(name, value)
    size = getattr(model, "target_vocabulary_size", None)
    if value < 0 or (size is not None and value >= size):
        raise ValueError(f"`{name}` must be an id of the target, in [0, {size}). {received(**{name: value})}")
    return value


def _check_max_length(model: DecodingModel, max_length: int | None) -> int:
    if max_length is None:
        return model.max_length
    if check_at_least("max_length", max_length, 1) > model.max_length:
        raise ValueError(
            f"`max_length` must be <= {model.max_length}, that of the model. {received(max_length=max_length)}"
        )
    return int(max_length)


def _check_top_p(top_p: float) -> float:
    if check_between("top_p", top_p, 0.0, 1.0) == 0.0:
        raise ValueError(f"`top_p` must be in (0, 1]. {received(top_p=top_p)}")
    return float(top_p)
