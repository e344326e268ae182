"""The functions of `keras_notes.compression.tfmot`: each checks its arguments and runs a task in TF-MOT's process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import keras
import numpy as np

from keras_notes._shared.checks import check_at_least, check_between, check_choice, check_integer
from keras_notes._shared.types import ArrayLike, Tree
from keras_notes.compression.tfmot._job import TfmotJob
from keras_notes.compression.tfmot._schedule import pruning_schedule
from keras_notes.compression.tfmot._training_options import TrainingOptions

__all__ = ["Trained", "cluster", "prune", "quantize_aware", "step_times"]


@dataclass(frozen=True)
class Trained:
    """A model that TF-MOT trained with quantization.

    Attributes:
        step: Number of training steps.
        tflite: The .tflite file, whose inputs hold one sample.
        outputs: Outputs of the trained tf_keras model for the golden inputs, of shape (samples, ...); None without
            golden inputs.
        seconds_per_step: Median time of a training step in seconds, without the first step; nan for fewer than two.

    Example:
        >>> from keras_notes.compression import tfmot
        >>> tfmot.Trained(step=100, tflite=b"...", outputs=None, seconds_per_step=0.004)  # without the file's bytes
        Trained(step=100, seconds_per_step=0.004)
    """

    step: int
    tflite: bytes = field(repr=False)
    outputs: np.ndarray | None = field(repr=False)
    seconds_per_step: float


def quantize_aware(
    model: keras.Model,
    x: Tree,
    y: ArrayLike,
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    loss: str = "sparse_categorical_crossentropy",
    from_logits: bool = True,
    edges: str = "int8",
    marks: Sequence[int] | None = None,
    golden: Tree = None,
    seed: int = 0,
) -> Trained | list[Trained]:
    """Trains a model by TF-MOT's quantization-aware training (`quantize_model`), and converts it.

    Args:
        model: Functional or sequential model of built-in layers, which is not changed.
        x: Samples: an array, or for several inputs a list, or a dict by input name.
        y: Labels or values of the samples.
        steps: Number of training steps, each on one batch: step i takes the rows from i * batch_size on, and starts
            over after the last row. Shuffle the samples before.
        batch_size: Number of samples of a batch.
        learning_rate: Learning rate of Adam.
        loss: Name of the loss: "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy",
            "mean_squared_error" or "mean_absolute_error".
        from_logits: Whether a cross-entropy gets logits.
        edges: Type of the inputs and outputs of the file, "int8" or "float32".
        marks: Further steps, in [0, steps], after which the model is converted too. TF-MOT's ranges all start at -6
            and 6, so that a file of step 0 is of little use.
        golden: Inputs, in the form of `x`, for which the outputs of the trained model are returned.
        seed: Seed of TensorFlow's random generators.

    Returns:
        A `Trained`; with `marks`, a list of them, one for each mark and the last one for `steps`.

    Raises:
        ImportError: If TF-MOT is not installed.
        TypeError: If an argument has a wrong type.
        ValueError: If an argument is out of its range, or tf_keras or TF-MOT does not take a layer; names it.
        RuntimeError: If training or conversion fails.

    Example:
        >>> import keras, numpy as np
        >>> from keras_notes.compression import tfmot
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> x, y = np.ones((64, 8), "float32"), np.zeros(64, "int32")
        >>> trained = tfmot.quantize_aware(model, x, y, steps=10, golden=x)  # doctest: +SKIP
        >>> trained.outputs.shape  # doctest: +SKIP
        (64, 4)

    References:
        https://www.tensorflow.org/model_optimization/guide/quantization/training
    """
    check_choice("edges", edges, ("int8", "float32"))
    options = TrainingOptions(steps, batch_size, learning_rate, loss, from_logits, seed)
    checked_marks = {int(check_between("marks", check_integer("marks", mark), 0, steps)) for mark in marks or ()}
    stops = sorted(checked_marks | {steps})
    with TfmotJob(model, x, y) as job:
        if golden is not None:
            job.add_samples("golden", golden)
        answer, outputs = job.run("quantize", options, edges=edges, stops=stops)
        files = {stop: (job.directory / f"{stop}.tflite").read_bytes() for stop in stops}
    seconds = answer["seconds"]
    trained = [Trained(stop, files[stop], outputs.get(str(stop)), seconds[str(stop)]) for stop in stops]
    return trained[0] if marks is None else trained


def prune(
    model: keras.Model,
    x: Tree,
    y: ArrayLike,
    *,
    steps: int,
    sparsity: float = 0.5,
    initial_sparsity: float = 0.0,
    begin_step: int = 0,
    end_step: int | None = None,
    frequency: int = 1,
    m_by_n: tuple[int, int] | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    loss: str = "sparse_categorical_crossentropy",
    from_logits: bool = True,
    seed: int = 0,
) -> keras.Model:
    """Trains a model by TF-MOT's pruning (`prune_low_magnitude`), and returns it without TF-MOT's wrappers.

    TF-MOT does not prune depthwise kernels.

    Args:
        model: Functional or sequential model of built-in layers, which is not changed.
        x: Samples, in a form that `quantize_aware` takes.
        y: Labels or values of the samples.
        steps: Number of training steps, at least 1.
        sparsity: Share of zeros in each kernel at the end, in [0, 1).
        initial_sparsity: Share of zeros at `begin_step`, in [0, 1); it needs an `end_step`.
        begin_step: First step at which weights are pruned.
        end_step: Step at which the share of zeros, which follows a cubic, reaches `sparsity`; in (`begin_step`,
            `steps`]. By default, it is constant from `begin_step` on.
        frequency: Number of steps between two prunings. TF-MOT's own default is 100, which costs less.
        m_by_n: Pair (m, n): of each n weights in a row along the inputs, m are 0. The sparsity must then be m / n, and
            TF-MOT chooses the zeros once, at the first step. If the number of inputs is not a multiple of n, TF-MOT
            pads the last n with zeros, and prunes fewer of their weights; it does so only for two-dimensional
            convolutions and dense layers.
        batch_size: Number of samples of a batch.
        learning_rate: Learning rate of Adam.
        loss: Name of the loss, one of those of `quantize_aware`.
        from_logits: Whether a cross-entropy gets logits.
        seed: Seed of TensorFlow's random generators.

    Returns:
        A copy of the model, with zeros.

    Raises:
        ImportError: If TF-MOT is not installed.
        TypeError: If an argument has a wrong type.
        ValueError: If an argument is out of its range, or tf_keras or TF-MOT does not take a layer; names it.
        RuntimeError: If training fails.

    Example:
        >>> import keras, numpy as np
        >>> from keras_notes.compression import tfmot
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> x, y = np.ones((64, 8), "float32"), np.zeros(64, "int32")
        >>> pruned = tfmot.prune(model, x, y, steps=10, sparsity=0.75)  # doctest: +SKIP
        >>> int(np.sum(pruned.get_weights()[0] == 0))  # doctest: +SKIP
        24

    References:
        https://www.tensorflow.org/model_optimization/guide/pruning
    """
    options = TrainingOptions(steps, batch_size, learning_rate, loss, from_logits, seed, minimum_steps=1)
    schedule = pruning_schedule(
        steps, m_by_n, sparsity, initial_sparsity, begin_step=begin_step, end_step=end_step, frequency=frequency
    )
    with TfmotJob(model, x, y) as job:
        _, weights = job.run("prune", options, **schedule)
        return job.model_with(weights)


def cluster(
    model: keras.Model,
    x: Tree,
    y: ArrayLike,
    *,
    steps: int,
    clusters: int = 16,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    loss: str = "sparse_categorical_crossentropy",
    from_logits: bool = True,
    seed: int = 0,
) -> keras.Model:
    """Trains a model by TF-MOT's clustering (`cluster_weights`), and returns it without TF-MOT's wrappers.

    The centroids start from k-means++. TF-MOT does not cluster depthwise kernels, and does not return the weights of
    `MultiHeadAttention`, which is an error here.

    Args:
        model: Functional or sequential model of built-in layers, which is not changed.
        x: Samples, in a form that `quantize_aware` takes.
        y: Labels or values of the samples.
        steps: Number of training steps.
        clusters: Number of different weights in a kernel, at least 2; TF-MOT refuses a kernel of fewer weights.
        batch_size: Number of samples of a batch.
        learning_rate: Learning rate of Adam.
        loss: Name of the loss, one of those of `quantize_aware`.
        from_logits: Whether a cross-entropy gets logits.
        seed: Seed of TensorFlow's random generators.

    Returns:
        A copy of the model, with kernels of few different weights.

    Raises:
        ImportError: If TF-MOT is not installed.
        TypeError: If an argument has a wrong type.
        ValueError: If an argument is out of its range, or tf_keras or TF-MOT does not take a layer; names it.
        RuntimeError: If training fails.

    Example:
        >>> import keras, numpy as np
        >>> from keras_notes.compression import tfmot
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> x, y = np.ones((64, 8), "float32"), np.zeros(64, "int32")
        >>> clustered = tfmot.cluster(model, x, y, steps=10, clusters=4)  # doctest: +SKIP
        >>> len(np.unique(clustered.get_weights()[0]))  # doctest: +SKIP
        4

    References:
        https://www.tensorflow.org/model_optimization/guide/clustering
    """
    options = TrainingOptions(steps, batch_size, learning_rate, loss, from_logits, seed)
    check_at_least("clusters", clusters, 2)
    with TfmotJob(model, x, y) as job:
        _, weights = job.run("cluster", options, clusters=clusters)
        return job.model_with(weights)


def step_times(
    model: keras.Model,
    x: Tree,
    y: ArrayLike,
    *,
    rounds: int = 15,
    steps_per_round: int = 20,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    loss: str = "sparse_categorical_crossentropy",
    from_logits: bool = True,
) -> dict[str, list[float]]:
    """Times training steps of a model in tf_keras, in floating point and with TF-MOT's quantization.

    Both models train in the same process, in rounds that alternate, after one round that is not counted.

    Args:
        model: Functional or sequential model of built-in layers, which is not changed.
        x: Samples, in a form that `quantize_aware` takes.
        y: Labels or values of the samples.
        rounds: Number of rounds of each model.
        steps_per_round: Number of steps in a round.
        batch_size: Number of samples of a batch.
        learning_rate: Learning rate of Adam.
        loss: Name of the loss, one of those of `quantize_aware`.
        from_logits: Whether a cross-entropy gets logits.

    Returns:
        Mean seconds of a step in each round, under "float" and "quantized".

    Raises:
        ImportError: If TF-MOT is not installed.
        TypeError: If an argument has a wrong type.
        ValueError: If an argument is out of its range, or tf_keras or TF-MOT does not take a layer; names it.
        RuntimeError: If training fails.

    Example:
        >>> import keras, numpy as np
        >>> from keras_notes.compression import tfmot
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> x, y = np.ones((64, 8), "float32"), np.zeros(64, "int32")
        >>> seconds = tfmot.step_times(model, x, y, rounds=3, steps_per_round=2)  # doctest: +SKIP
        >>> {name: len(rounds) for name, rounds in seconds.items()}  # doctest: +SKIP
        {'float': 3, 'quantized': 3}
    """
    check_at_least("rounds", rounds, 1)
    check_at_least("steps_per_round", steps_per_round, 1)
    options = TrainingOptions(steps_per_round, batch_size, learning_rate, loss, from_logits)
    with TfmotJob(model, x, y) as job:
        return job.run("time", options, rounds=rounds)[0]["seconds"]
