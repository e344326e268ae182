"""`quantize_aware`: quantization-aware training in the arithmetic of the device."""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Sequence

import keras
import numpy as np
from keras import tree

from keras_notes._shared.checks import check_at_least, check_between, check_choice, received
from keras_notes._shared.keras_internals import half_precision_attributes, layers_of
from keras_notes._shared.models.edge_layers import find_float_first_layers
from keras_notes._shared.models.layer_patterns import Path, check_skip, shortest_patterns, skip_patterns
from keras_notes._shared.samples import read_for_model
from keras_notes._shared.types import ArrayLike, Tree
from keras_notes.compression._compressed_model import CompressedModel, attach_quantization, copy_float_parts
from keras_notes.compression._copies import check_float_weights, input_arrays, inputs_of, spec_like
from keras_notes.compression._untrained_error import warn_if_far
from keras_notes.compression.quantization._config import QuantizationConfig, check_recipe
from keras_notes.compression.quantization._quantized_network import calibrate, find_refusals, trace_network
from keras_notes.compression.quantization._tracer import Refusal, StepsRefusedError
from keras_notes.errors import QuantizationError

__all__ = ["quantize_aware", "quantize_copy"]

_LOG = logging.getLogger(__name__)


def quantize_aware(
    model: keras.Model,
    *,
    recipe: str = "int8",
    calibration: ArrayLike | None = None,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    ranges: str = "moving_average",
    batch_norm: str = "frozen",
    momentum: float = 0.99,
    freeze_after: int | None = None,
) -> CompressedModel:
    """Returns a model that rounds its values to the integers of the device, in training and in `predict`.

    Train the result like any Keras model, alone or as the student of a `Distiller`. Then `convert` it with the same
    recipe and without calibration data: the model holds the ranges. To load it from a .keras file, import keras_notes
    first. Weights are rounded symmetrically, with a scale for each channel. Activations are rounded once after each
    operator of LiteRT, that is, after the batch normalization and the activation that are fused to it. Biases are
    rounded to the grid of the sums that they are added to. Gradients pass roundings unchanged (straight-through), and
    are zero where a value is clipped.

    First layers that bring unlike columns of a table to a common range (`Normalization`, `BatchNormalization`,
    `Rescaling`) stay in floating point, because a grid for all columns would lose the narrow ones; `convert` keeps them
    so too. A warning tells if the untrained copy is far from the model on the calibration data, and at which layer.

    If the channels of a network have very different ranges, as those of depthwise convolutions often have, call
    `equalize` first: a single grid for all channels leaves few values to those with small ranges, and training
    compensates for that slowly.

    Args:
        model: Built model: functional, sequential, nested, or subclassed if it consists of layers and `keras.ops`. It
            is not changed. A model from `prune` or `cluster` keeps its zeros and centroids.
        recipe: "int8", or "static_int8" as in `convert` (weights and activations), "int16x8" (weights in int8,
            activations in int16), or "weight_int4" (weights of 4 bits where LiteRT has the operator, activations in
            floating point).
        calibration: Typical inputs, about 250 samples of the training set of shape (samples, ...), in the structure of
            the model's inputs; or a dataset of samples or batches, with or without labels, of which the first 512
            samples are used: a `tf.data.Dataset`, a `keras.utils.PyDataset`, a `DataLoader` or a generator. The ranges
            of activations start from theirs; without calibration data, from the first batch of training.
        skip: Patterns of the names or paths ("block/*", "head/exp") of layers and operations that stay in floating
            point. An operation of `keras.ops` is named after its class: "cumsum", and "cumsum#2" for the second one
            beside it. `convert` reads them from the model.
        only: Patterns of the only layers that compute in integers; all others stay in floating point, as those of
            `skip` do. Defaults to all layers.
        ranges: Method by which the ranges of activations follow the training: "moving_average" of the ranges of
            batches, or "learned" by gradient (LSQ), which needs calibration data.
        batch_norm: Statistics that a batch normalization after a layer with weights uses in training: "frozen" (the
            moving statistics, folded into the weights, as in inference) or "live" (those of the batch, as in Keras,
            until the ranges freeze). In inference, as on the device, the moving statistics are always folded. Frozen
            statistics are as accurate on the networks of benchmarks/compression/accuracy.py, and a step takes less
            time; choose "live" for a network that is not trained yet.
        momentum: Part of the old range that stays at each step of the moving average, in [0, 1).
        freeze_after: Number of training steps after which ranges and batch statistics stay. About four fifths of all
            steps is a good choice. Defaults to never.

    Returns:
        A `CompressedModel` with the inputs, outputs and weights of the model.

    Raises:
        TypeError: If `model` is not a Keras model, or `skip` or `only` is not a sequence of strings.
        ValueError: If an argument is out of its range, or the model is not built or already quantization-aware.
        QuantizationError: If the device has no integer operator for layers or operations; names all of them, and the
            `skip` with which the model is taken and converts (`error.remedy`); None where the device cannot compute
            them at all. It is a ValueError too.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="relu")])
        >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
        >>> quantized = quantize_aware(model, calibration=x)
        >>> bool(abs(quantized.predict(x, verbose=0) - model.predict(x, verbose=0)).max() < 0.1)
        True

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, section 3. Esser et al., "Learned Step Size Quantization", ICLR 2020.
    """
    calibration = read_for_model("calibration", calibration, model)
    config = QuantizationConfig(
        recipe=check_recipe(recipe),
        skip=skip_patterns(skip),
        only=skip_patterns(only, "only"),
        batch_norm=check_choice("batch_norm", batch_norm, ("live", "frozen")),
        learned=check_choice("ranges", ranges, ("moving_average", "learned")) == "learned",
        momentum=_check_momentum(momentum),
        freeze_after=None if freeze_after is None else check_at_least("freeze_after", freeze_after, 0),
        calibrated=calibration is not None,
    )
    if config.learned and calibration is None:
        raise ValueError(
            "`calibration` must hold typical inputs for ranges='learned', which start from theirs. "
            "Received: calibration=None."
        )
    quantized = quantize_copy(model, config, calibration)
    if calibration is not None and quantized.quantization is not None:
        structure = quantized.input_structure
        with quantized.transformed():
            warn_if_far(quantized.network, quantized.quantization, structure, input_arrays(structure, calibration))
    return quantized


def quantize_copy(model: keras.Model, config: QuantizationConfig, calibration: Tree | None) -> CompressedModel:
    """Returns a quantization-aware copy of a model.

    Args:
        model: Built model.
        config: Choices of `quantize_aware`.
        calibration: Typical inputs, in the structure of the model's inputs; None without any.

    Raises:
        QuantizationError: As `quantize_aware`.
    """
    quantized = _copy_in_float(model, calibration)
    structure = quantized.input_structure
    try:
        arrays = None if calibration is None else input_arrays(structure, calibration)
        config = _keep_first_layers_in_float(quantized, config, arrays)
        program = trace_network(quantized.network, structure, config)
        check_skip(config.skip, [step.path for step in program.steps])
        check_skip(config.only, [step.path for step in program.steps], argument="only")
        with quantized.transformed():
            limits = calibrate(program, structure, config, arrays)
    except StepsRefusedError as error:
        raise _refusal_of(quantized, config, error.refusals) from error
    quantization = attach_quantization(quantized, program, config, tuple(limits))
    if limits and calibration is not None:
        quantization.ranges.start(np.array(list(limits.values()), "float32"))
    return quantized


def _refusal_of(
    quantized: CompressedModel, config: QuantizationConfig, refusals: Sequence[Refusal]
) -> QuantizationError:
    """Returns the error that names everything that cannot compute in integers, and the `skip` that works, if any does.

    Args:
        quantized: The model in floating point.
        config: Choices of `quantize_aware`.
        refusals: What was refused first.
    """
    problems: dict[Path, str] = {}
    new_refusals = list(refusals)
    has_remedy = True
    while new_refusals:
        has_remedy = has_remedy and all(refusal.is_in_litert for refusal in new_refusals)
        problems.update((refusal.path, refusal.problem) for refusal in new_refusals)
        patterns = shortest_patterns(problems, config.skip)
        with quantized.transformed():
            trial = dataclasses.replace(config, skip=tuple(patterns))
            further = find_refusals(quantized.network, quantized.input_structure, trial)
        # A refusal that skipping the layer does not end has another cause: only the first message helps then.
        new_refusals = [refusal for refusal in further if refusal.path not in problems]
    sentences = list(problems.values())
    if not has_remedy:
        return QuantizationError(_join(sentences), None, sentences)
    return QuantizationError(f"{_join(sentences)} Remedy: skip={patterns}.", {"skip": patterns}, sentences)


def _join(problems: Sequence[str]) -> str:
    """Joins sentences; those that differ only in what was received become one."""
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for problem in problems:
        requirement, _, rest = problem.partition("Received: ")
        name, _, advice = rest.partition(". ")
        names[requirement, advice].append(name)
    sentences = [
        requirement + (f"Received: {', '.join(values)}. {advice}" if any(values) else "")
        for (requirement, advice), values in names.items()
    ]
    return " ".join(sentences)


def _copy_in_float(model: keras.Model, calibration: ArrayLike | None) -> CompressedModel:
    """Copies a model, with the transforms of its weights, into a `CompressedModel` in floating point."""
    network, transforms, specs = copy_float_parts(model, "quantize")
    check_float_weights(network)
    # Float32, because a rounding to half precision before that to integers would be a second one.
    for part, name, value in half_precision_attributes(layers_of(network)):
        setattr(part, name, value)
    if specs is None and inputs_of(network) is None:
        if calibration is None:
            raise ValueError(
                f"`calibration` must be given for a model whose inputs are not known. Received: {model.name!r}, a "
                f"{type(model).__name__}, and calibration=None."
            )
        specs = tree.map_structure(spec_like, calibration)
    return CompressedModel(network, transforms, input_specs=specs, name=model.name)


def _keep_first_layers_in_float(
    quantized: CompressedModel, config: QuantizationConfig, arrays: Sequence[np.ndarray] | None
) -> QuantizationConfig:
    """Adds to `skip` the first layers that would lose columns of unlike ranges."""
    if config.format is None or arrays is None:
        return config
    paths = [path for path in find_float_first_layers(quantized.network, arrays) if path not in config.skip]
    if not paths:
        return config
    _LOG.info(
        "%s: %s in floating point, before the first rounding: the ranges of its columns are too unlike for one grid",
        quantized.name,
        ", ".join(paths),
    )
    return dataclasses.replace(config, skip=(*config.skip, *paths))


def _check_momentum(momentum: float) -> float:
    """Returns a momentum in [0, 1).

    Raises:
        ValueError: If it is outside.
    """
    if (checked := check_between("momentum", momentum, 0.0, 1.0)) == 1.0:
        raise ValueError(f"`momentum` must be in [0, 1). {received(momentum=momentum)}")
    return checked
