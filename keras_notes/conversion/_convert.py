"""`convert`: deploy graph -> converter -> quantizer -> audit -> golden samples -> bundle."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras

from keras_notes._shared.checks import check_choice, received
from keras_notes._shared.types import ArrayLike
from keras_notes.bundle import TOKENIZER_FILE, Bundle, check_target, read_tokenizer, write_bundle
from keras_notes.compression import CompressedModel, strip
from keras_notes.conversion._auto_recipe import Criteria, choose_best
from keras_notes.conversion._bundle_builder import BundleBuilder
from keras_notes.conversion._recipes import (
    EDGES,
    InputRange,
    RecipeArgument,
    RecipeByLayer,
    candidate_recipes,
    is_auto,
    parse_recipe,
    trained_recipe,
)

__all__ = ["convert"]

_log = logging.getLogger(__name__)


def convert(
    model: keras.Model,
    directory: str | os.PathLike[str],
    recipe: RecipeArgument = "static_int8",
    *,
    edges: str = "float32",
    calibration: ArrayLike | None = None,
    golden: ArrayLike | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    signatures: Mapping[str, keras.Model] | None = None,
    batch_size: int | None = 1,
    lowering: str | Mapping[str, str] = "auto",
    validation_data: ArrayLike | None = None,
    accuracy_budget: float = 0.01,
    prefer: str = "bytes",
    reference: keras.Model | ArrayLike | None = None,
    input_range: InputRange | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Converts a trained model to a .tflite file and writes it as a bundle, with golden samples to verify it.

    The file has built-in operators only. Converter and quantizer run in processes of their own, so that a crash of
    either is only an error here; models that were trained on JAX or PyTorch are carried over to TensorFlow there. The
    bundle is written whole or not at all.

    Args:
        model: A built functional or sequential model; or a subclassed one, whose inputs are then taken from the
            samples. Load one of Keras 2 by `conversion.load_keras2_model`: its hard sigmoid was another. A model from
            `prune` or `cluster` is stripped first (`strip`); a model from `quantize_aware` keeps its integers and
            ranges, with the recipe that it was trained for. The states of recurrent layers with stateful=True become
            inputs and outputs.
        directory: The directory of the bundle, which must not exist yet unless `overwrite` is true.
        recipe: The number format; or a default and exceptions by the name of a layer or operation ("block/dense",
            "conv*", "cumsum"), of which the last match counts:
            `{"default": "static_int8", "layers": {"head": "float32"}}`.

            - "float32";
            - "float16": weights float16, computed in float32;
            - "dynamic_int8": weights int8, computed in integers whose ranges are taken from each sample; in floating
              point by depthwise convolutions and where weights are few, which is faster there. Such weights are float16
              if they are at most a quarter of all;
            - "static_int8", or "int8": weights and activations int8, ranges from the calibration data;
            - "int16x8": weights int8, activations int16;
            - "weight_int4": like "dynamic_int8", with weights of 4 bits where LiteRT has the operator;
            - "auto": the best recipe that fits, by measurements of its file on this machine. The bundle keeps the table
              of all candidates: `keras_notes.conversion.read_choice(bundle)`.
        edges: Type of the inputs and outputs: "float32" (runs everywhere); "uint8" or "int8" (for microcontrollers)
            with "static_int8", "int16" with "int16x8".
        calibration: Typical inputs of shape (samples, ...) from the training set, 250 or more; for several inputs a
            list or a dict by name; with `signatures`, a dict of these by signature. "static_int8" and "int16x8" need
            them; for another recipe, and for a quantization-aware model, they only provide golden samples. For a model
            with states, the steps of one sequence. Or a dataset of samples or batches, with or
            without labels, of which the first 512 samples are used (shuffle it): a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a `DataLoader`, a list, a generator, or a function that returns one.
        golden: Inputs of the same form, kept in the bundle with the outputs of the model; of a dataset the first 32.
            Defaults to 32 of the calibration samples, for a model with states the first 32; of 128 and more, to 32 that
            are spread over the outputs of the model and set no ranges, so that they show errors on other data. Without
            calibration data, to 32 seeded samples: of the standard normal distribution, or for integers, ids of the
            words that the model's `Embedding` has.
        labels: One name a class, for the device to show.
        preprocessing: A description of how raw data becomes the model's input, for the device's developer.
        tokenizer: The tokenizer's file of a text model, in the format of Hugging Face's `tokenizers`
            (`Tokenizer.save`), which has readers for phones and browsers. The bundle keeps a copy.
        signatures: Further entry points by name: models that share layers with `model`, whose own is
            "serving_default". Shared weights are in the file once.
        batch_size: 1, or None for a file that takes any number of samples at once.
        lowering: The form of recurrent layers on the device, Keras's own included: "loop", "unrolled", "fused", or
            "auto", see `keras_notes.layers.LSTM`; or a dict of these by layer name or path, of which the last match
            counts, as for `recipe`: `{"encoder/lstm*": "fused"}`. A fused LSTM needs a runtime that resets its state,
            and the recipe "float32" or "static_int8".
        validation_data: Test inputs and their labels, (x, y), or a dataset of them: class ids, one-hot labels, single
            labels of 0 and 1, or other numbers of the output's shape; for several outputs a dict of labels by output.
            The bundle keeps the trained model's figure, and `verify` with the same data compares the file with it.
            "auto" chooses by them; it takes class ids for a model with one output, and without them the error on the
            golden samples counts. A dataset is read whole, but of a source of unknown length, such as a generator, the
            first 10000 samples.
        accuracy_budget: The largest loss of a file, >= 0: of accuracy, as a fraction (0.01 is one point); of an error,
            the growth of its square as a share of the labels' variance; for "auto" without validation data, the root
            mean square error as a share of the outputs' standard deviation. Every file must also be within the
            tolerance of its recipe.
        prefer: The preference of "auto": "bytes" takes the smallest file within the budget, but one that is up to 25 %
            larger where the smallest takes more than twice its time; "latency" the smallest of the files within 5 % of
            the fastest, on one thread.
        reference: The float model that the model came from, or its outputs for the golden samples. The bundle keeps
            these, and `verify` and `inspect` say how far the file is from them. Defaults, for a quantization-aware
            model with `golden` samples, to its own network run in floating point.
        input_range: The smallest and the largest value of the input, such as (0.0, 1.0) or (0.0, 255.0), in place of
            those of the calibration data; for several inputs a dict by name. It must hold 0. With edges="uint8" it
            says which values the bytes 0 and 255 of an image stand for.
        overwrite: Whether a bundle in `directory` is replaced.

    Returns:
        The `Bundle`. `keras_notes.verify(bundle)` compares its file with the trained model.

    Raises:
        ValueError: If an argument is out of its range, or samples have the wrong shape or are not finite.
        TypeError: If an argument has another type.
        ConversionError: If the model cannot be converted with these arguments. Where others help, `error.remedy` holds
            them.
        BundleError: If `directory` exists already.

    Example:
        >>> import keras, numpy as np, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> x = np.random.default_rng(0).normal(size=(100, 4))
        >>> bundle = convert(model, tempfile.mkdtemp() + "/bundle", "static_int8", calibration=x)
        >>> bundle.manifest.signatures[0].outputs[0].shape
        (1, 3)
    """
    criteria = Criteria(validation_data, accuracy_budget, prefer)
    _check_arguments(edges, preprocessing, batch_size)
    text_files = {} if tokenizer is None else {TOKENIZER_FILE: read_tokenizer(Path(tokenizer))}
    if isinstance(model, CompressedModel) and model.scheme is None:
        model = strip(model)
    scheme = model.scheme if isinstance(model, CompressedModel) else None
    if scheme is not None:
        candidates = [trained_recipe(recipe, scheme.conversion_recipe, scheme.skip, scheme.only)]
        _check_trained(model, signatures)
    elif is_auto(recipe):
        candidates = candidate_recipes(recipe, edges, has_calibration=calibration is not None)
    else:
        candidates = [parse_recipe(recipe)]
    if not is_auto(recipe):
        _check_edges(candidates[0], edges)
        _check_calibration(candidates[0], has_calibration=calibration is not None, is_trained=scheme is not None)
        if input_range is not None and (scheme is not None or not candidates[0].needs_calibration):
            reason = "which has no ranges" if scheme is None else "of a quantization-aware model, whose are trained"
            raise ValueError(
                f"`input_range` must be None for the recipe {candidates[0].default.name!r}, {reason}. "
                f"{received(input_range=input_range)}"
            )
    target = check_target(directory, overwrite)
    builder = BundleBuilder(
        model,
        calibration=calibration,
        golden=golden,
        labels=labels,
        preprocessing=preprocessing,
        signatures=signatures,
        batch_size=batch_size,
        lowering=lowering,
        reference=reference,
        input_range=input_range,
    )
    labelled = None if validation_data is None else builder.read_labelled(validation_data)
    figures, scores = (None, {}) if labelled is None else builder.measure_trained(labelled, accuracy_budget)
    if is_auto(recipe):
        criteria = dataclasses.replace(criteria, validation_data=labelled)
        manifest, files = choose_best(builder, candidates, edges, criteria)
    else:
        manifest, files = builder.build(candidates[0], edges, try_remedy=True)
    manifest = dataclasses.replace(manifest, trained_figures=figures)
    return write_bundle(target, manifest, {**files, **text_files, **scores}, overwrite=overwrite)


def _check_arguments(edges: str, preprocessing: str | None, batch_size: int | None) -> None:
    check_choice("edges", edges, EDGES)
    if not isinstance(preprocessing, (str, type(None))):
        raise TypeError(f"`preprocessing` must be words. {received(preprocessing=preprocessing)}")
    if batch_size is not None and (isinstance(batch_size, bool) or batch_size != 1):
        raise ValueError(f"`batch_size` must be 1, or None for any. {received(batch_size=batch_size)}")


def _check_trained(model: keras.Model, signatures: Mapping[str, keras.Model] | None) -> None:
    if signatures:
        raise ValueError(
            f"`signatures` must be None for a quantization-aware model, which {model.name!r} is. Received: "
            f"{sorted(signatures)}. Convert each entry point to a bundle of its own."
        )


def _check_edges(recipes: RecipeByLayer, edges: str) -> None:
    if edges not in recipes.default.edges:
        allowed = " or ".join(map(repr, recipes.default.edges))
        raise ValueError(f"`edges` must be {allowed} for the recipe {recipes.default.name!r}. {received(edges=edges)}")


def _check_calibration(recipes: RecipeByLayer, *, has_calibration: bool, is_trained: bool) -> None:
    needs_calibration = recipes.needs_calibration and not is_trained
    if needs_calibration and not has_calibration:
        raise ValueError(
            f"`calibration` must hold typical inputs for the recipe {recipes.default.name!r}: they set the ranges of "
            f"the integers. Received: calibration=None. Give 250 or more samples of the training set."
        )
    if has_calibration and not needs_calibration:
        reason = "the model has trained ones" if is_trained else f"{recipes.default.name} has none"
        _log.info("`calibration` sets no ranges, because %s; golden samples are taken from it", reason)
