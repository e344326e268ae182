"""TF-MOT's own quantization-aware training, pruning and clustering, for Keras 3 models.

TF-MOT (tensorflow-model-optimization) is the established scheme, and works with Keras 2 only: a functional or
sequential model is built anew in tf_keras, in a process of its own, because importing TF-MOT makes a process one of
tf_keras. It trains there, on batches in the order of the samples, and its file or its weights come back.

It needs `pip install 'keras_notes[tfmot]'`. `keras_notes.compression` itself takes more layers, and its models train as
Keras 3 models do; this module is for those who want TF-MOT's scheme, or compare with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_notes._shared.checks import check_at_least, check_between, check_choice, check_integer
from keras_notes.compression.tfmot._job import TfmotJob, training_settings
from keras_notes.compression.tfmot._schedule import pruning_schedule

__all__ = ["Trained", "cluster", "prune", "quantize_aware", "step_times"]


@dataclass(frozen=True)
class Trained:
    """A model as TF-MOT trained it with quantization.

    Attributes:
        step: The number of training steps behind it.
        tflite: The .tflite file, of one sample at once.
        outputs: What the trained tf_keras model gives for the golden inputs; None if there were none.
        seconds_per_step: The median time of a training step until then, the first aside; nan for fewer than two.
    """

    step: int
    tflite: bytes = field(repr=False)
    outputs: np.ndarray | None = field(repr=False)
    seconds_per_step: float


def quantize_aware(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    loss: str = "sparse_categorical_crossentropy",
    from_logits: bool = True,
    edges: str = "int8",
    marks: Sequence[int] | None = None,
    golden: Any = None,
    seed: int = 0,
) -> Trained | list[Trained]:
    """Trains a model by TF-MOT's quantization-aware training (`quantize_model`), and converts it.

    Args:
        model: A functional or sequential model of built-in layers, which stays as it is.
        x: The samples: an array, or for several inputs a list, or a dict by input name.
        y: Their labels or values.
        steps: The number of training steps, each on one batch: step i takes the rows from i * batch_size on, over and
            over and in their order. Shuffle them before.
        batch_size: The number of samples of a batch.
        learning_rate: Of Adam.
        loss: "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy",
            "mean_squared_error" or "mean_absolute_error".
        from_logits: Whether a cross-entropy gets logits.
        edges: The type of the inputs and outputs of the file, "int8" or "float32".
        marks: Further steps, in [0, steps], at which to convert on the way. TF-MOT's ranges all start at -6 and 6, so
            that a model is of no use before its first step.
        golden: Inputs, in the form of `x`, for which to return the outputs of the trained model.
        seed: Of TensorFlow's random generators.

    Returns:
        A `Trained`; with `marks`, a list of them, one for each mark and the last one for `steps`.

    Raises:
        ImportError: If TF-MOT is not installed.
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
    training = training_settings(steps, 0, batch_size, learning_rate, loss, from_logits, seed)
    stops = sorted(
        {int(check_between("marks", check_integer("marks", one), 0, steps)) for one in marks or ()} | {steps}
    )
    with TfmotJob(model, x, y) as job:
        if golden is not None:
            job.add_samples("golden", golden)
        answer, outputs = job.run("quantize", edges=edges, stops=stops, **training)
        files = {stop: (job.directory / f"{stop}.tflite").read_bytes() for stop in stops}
    seconds = answer["seconds"]
    trained = [Trained(stop, files[stop], outputs.get(str(stop)), seconds[str(stop)]) for stop in stops]
    return trained[0] if marks is None else trained


def prune(
    model: keras.Model,
    x: Any,
    y: Any,
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

    TF-MOT leaves depthwise kernels as they are.

    Args:
        model: As in `quantize_aware`; so are `x`, `y`, `batch_size`, `learning_rate`, `loss`, `from_logits` and `seed`.
        x: The samples.
        y: Their labels or values.
        steps: The number of training steps, at least 1.
        sparsity: The share of zeros in each kernel at the end, in [0, 1).
        initial_sparsity: The share at `begin_step`, if there is an `end_step`.
        begin_step: The step at which pruning begins.
        end_step: The step at which the sparsity is that of the end, risen by a cubic; in (`begin_step`, `steps`]. By
            default, the sparsity is constant from `begin_step` on.
        frequency: Every how many steps the zeros are chosen anew. TF-MOT's own default is 100, which costs less.
        m_by_n: (m, n): of each n weights in a row along the inputs, m are 0. The sparsity is m / n then, and TF-MOT
            chooses the zeros once, at the first step. Where the inputs are no multiple of n, it fills up the last n
            with zeros, and takes fewer weights out of them; it does so with convolutions of two dimensions and dense
            layers only.
        batch_size: The number of samples of a batch.
        learning_rate: Of Adam.
        loss: The name of the loss.
        from_logits: Whether a cross-entropy gets logits.
        seed: Of TensorFlow's random generators.

    Returns:
        A copy of the model, with zeros.

    Raises:
        ImportError: If TF-MOT is not installed.
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
    training = training_settings(steps, 1, batch_size, learning_rate, loss, from_logits, seed)
    schedule = pruning_schedule(
        steps, m_by_n, sparsity, initial_sparsity, begin_step=begin_step, end_step=end_step, frequency=frequency
    )
    with TfmotJob(model, x, y) as job:
        _, weights = job.run("prune", **schedule, **training)
        return job.model_with(weights)


def cluster(
    model: keras.Model,
    x: Any,
    y: Any,
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

    The centroids start from k-means++. TF-MOT leaves depthwise kernels as they are, and does not give back the weights
    of `MultiHeadAttention`, which is an error here.

    Args:
        model: As in `quantize_aware`; so are `x`, `y`, `batch_size`, `learning_rate`, `loss`, `from_logits` and `seed`.
        x: The samples.
        y: Their labels or values.
        steps: The number of training steps.
        clusters: The number of different weights in a kernel, at least 2; TF-MOT refuses a kernel of fewer weights.
        batch_size: The number of samples of a batch.
        learning_rate: Of Adam.
        loss: The name of the loss.
        from_logits: Whether a cross-entropy gets logits.
        seed: Of TensorFlow's random generators.

    Returns:
        A copy of the model, with kernels of few different weights.

    Raises:
        ImportError: If TF-MOT is not installed.
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
    training = training_settings(steps, 0, batch_size, learning_rate, loss, from_logits, seed)
    check_at_least("clusters", clusters, 2)
    with TfmotJob(model, x, y) as job:
        _, weights = job.run("cluster", clusters=clusters, **training)
        return job.model_with(weights)


def step_times(
    model: keras.Model,
    x: Any,
    y: Any,
    *,
    rounds: int = 15,
    steps_per_round: int = 20,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    loss: str = "sparse_categorical_crossentropy",
    from_logits: bool = True,
) -> dict[str, list[float]]:
    """Times training steps in tf_keras: of the model in floating point, and of TF-MOT's quantize-aware one.

    Both train in the same process, in rounds that take turns, after one round that is not counted.

    Args:
        model: As in `quantize_aware`; so are `x`, `y`, `batch_size`, `learning_rate`, `loss` and `from_logits`.
        x: The samples.
        y: Their labels or values.
        rounds: The number of rounds of each.
        steps_per_round: The number of steps in a round.
        batch_size: The number of samples of a batch.
        learning_rate: Of Adam.
        loss: The name of the loss.
        from_logits: Whether a cross-entropy gets logits.

    Returns:
        The seconds of a step, the mean of each round, under "float" and "quantized".

    Raises:
        ImportError: If TF-MOT is not installed.
        ValueError: If an argument is out of its range, or tf_keras or TF-MOT does not take a layer; names it.
        RuntimeError: If training fails.
    """
    check_at_least("rounds", rounds, 1)
    check_at_least("steps_per_round", steps_per_round, 1)
    training = training_settings(steps_per_round, 1, batch_size, learning_rate, loss, from_logits, 0)
    with TfmotJob(model, x, y) as job:
        return job.run("time", rounds=rounds, **training)[0]["seconds"]
