"""`quantize_aware`: a model that trains in the arithmetic of the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_notes._shared.checks import check_at_least, check_between, check_choice, received
from keras_notes._shared.layer_patterns import check_skip, skip_patterns
from keras_notes.compression._compressed_model import CompressedModel, copy_float_parts
from keras_notes.compression._copies import input_arrays, inputs_of, spec_like
from keras_notes.compression.quantization._config import RECIPES, Scheme

__all__ = ["quantize_aware"]


def quantize_aware(
    model: keras.Model,
    *,
    recipe: str = "int8",
    calibration: Any = None,
    skip: Sequence[str] = (),
    ranges: str = "moving_average",
    batch_norm: str = "frozen",
    momentum: float = 0.99,
    freeze_after: int | None = None,
) -> CompressedModel:
    """Returns a model that computes, in training and in `predict`, as the device will: rounded to its integers.

    Train it as any Keras model, alone or as the student of a `Distiller`, then `convert` it with the same recipe, and
    without calibration data: the ranges are in it. Weights are rounded by channel, symmetric; activations once behind
    each operator of LiteRT, after batch normalization and the activation that are fused to it; biases to the grid of
    their products. Gradients pass roundings straight through, and stop where a value is clipped.

    A network whose channels have very different ranges, as depthwise ones often do, goes through `equalize` before: one
    grid for all of them leaves the small ones few values, and training makes up for that slowly.

    Args:
        model: A built model; functional, sequential, nested, or subclassed of layers and `keras.ops`. It stays as it
            is. One that `prune` or `cluster` made keeps its zeros and centroids.
        recipe: "int8" (weights and activations; "static_int8" of `convert`), "int16x8" (weights int8, activations
            int16), or "weight_int4" (weights of 4 bits where LiteRT has the operator, activations in floating point).
        calibration: Typical inputs, some 250, of the training set, from which the ranges of activations start. Without
            them ranges start at the first batch of training.
        skip: Patterns of layer names, or of paths ("block/*"), that stay in floating point. `convert` is told by the
            model.
        ranges: How ranges of activations go on in training: "moving_average" of those of the batches, or "learned", by
            gradient (LSQ), which needs calibration data.
        batch_norm: What a batch normalization behind a layer with weights uses in training: "frozen" (the moving
            statistics, folded into the weights: what is trained is what runs) or "live" (those of the batch, as in
            Keras, until the ranges freeze). Inference, as the device, always has them folded. Frozen statistics are as
            accurate on the networks of benchmarks/compression/accuracy.py, and a step costs less; take "live" for
            a network that is still to learn.
        momentum: Of the moving averages, in [0, 1): how much of the old range stays at each step.
        freeze_after: The number of training steps after which ranges and batch statistics stay. A good choice is some
            four fifths of all steps. Defaults to never.

    Returns:
        A `CompressedModel` with the inputs, outputs and weights of the model.

    Raises:
        ValueError: If an argument is out of its range, or the device has no integer operator for a layer; names it.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="relu")])
        >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        >>> quantized = quantize_aware(model, calibration=x)
        >>> bool(abs(quantized.predict(x, verbose=0) - model.predict(x, verbose=0)).max() < 0.1)
        True

    References:
        Jacob et al., CVPR 2018, section 3. Esser et al., "Learned Step Size Quantization", ICLR 2020.
    """
    scheme = Scheme(
        recipe=check_choice("recipe", recipe, tuple(RECIPES)),
        skip=skip_patterns(skip),
        batch_norm=check_choice("batch_norm", batch_norm, ("live", "frozen")),
        learned=check_choice("ranges", ranges, ("moving_average", "learned")) == "learned",
        momentum=_momentum(momentum),
        freeze_after=None if freeze_after is None else check_at_least("freeze_after", freeze_after, 0),
        calibrated=calibration is not None,
    )
    if scheme.learned and calibration is None:
        raise ValueError(
            "`calibration` must hold typical inputs for ranges='learned', which start from theirs. "
            "Received: calibration=None."
        )
    network, transforms, specs = _parts(model, calibration)
    draft = CompressedModel(network, transforms, scheme, (), specs)
    assert draft.quantization is not None
    check_skip(scheme.skip, [step.path for step in draft.quantization.steps])
    with draft.transformed():
        arrays = None if calibration is None else input_arrays(draft.input_structure, calibration)
        found = draft.quantization.calibrated(arrays)
    made = CompressedModel(network, transforms, scheme, tuple(found), specs, name=model.name)
    assert made.quantization is not None
    if found and calibration is not None:
        made.quantization.ranges.start(np.array(list(found.values()), "float32"))
    return made


def _parts(model: keras.Model, calibration: Any) -> tuple[keras.Model, list[Any], Any]:
    """A copy of the network, of what its weights go through, and its inputs if it does not say them itself."""
    copy, transforms, specs = copy_float_parts(model, "quantize")
    for layer in copy._flatten_layers():
        if layer.compute_dtype in ("float16", "bfloat16"):  # rounded to integers, they would be rounded twice
            layer.dtype_policy = keras.DTypePolicy("float32")
    if specs is not None or inputs_of(copy) is not None:
        return copy, transforms, specs
    if calibration is None:
        raise ValueError(
            f"`calibration` must be given for a model whose inputs are not known. Received: {model.name!r}, a "
            f"{type(model).__name__}, and calibration=None."
        )
    return copy, transforms, tree.map_structure(spec_like, calibration)


def _momentum(momentum: Any) -> float:
    if (checked := check_between("momentum", momentum, 0.0, 1.0)) == 1.0:
        raise ValueError(f"`momentum` must be in [0, 1). {received(momentum=momentum)}")
    return checked
