"""`cluster`: kernels of few different weights, which are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_at_least
from keras_notes._shared.types import Config, Tensor
from keras_notes.compression._compressed_model import CompressedModel, copy_float_parts
from keras_notes.compression._prunable_kernels import kernels_of
from keras_notes.compression._pruning import Pruning
from keras_notes.compression._weight_transform import WeightTransform

__all__ = ["Clustering", "cluster", "cluster_weights", "kmeans_1d"]

_MAXIMUM_ITERATIONS = 100


def cluster(model: keras.Model, clusters: int, *, skip: Sequence[str] = (), seed: int = 0) -> CompressedModel:
    """Returns a model whose kernels have at most `clusters` different weights each, which train with the network.

    The centroids start from k-means. At every step, each weight is the centroid nearest to its variable. The centroids
    are trained, each by the sum of the gradients of its members; so are the variables, by the straight-through
    gradient, so that weights can change their cluster. A file whose weights take few values compresses well (in a zip
    file or an app store's package); the file itself does not become smaller.

    Args:
        model: Built model, which is not changed; or a result of `prune`, whose zeros stay: in its pruned kernels 0 is a
            cluster, which no other weight joins. Pass that model itself: its `strip` has no masks. Its trainable
            kernels are clustered, those of recurrent cells included; embeddings, biases and normalizations are not.
        clusters: Maximum number of different weights in a kernel, at least 2. A kernel has fewer if it has fewer
            weights, or if training leaves a centroid without members.
        skip: Patterns of the names or paths ("block/*") of layers that are not clustered.
        seed: Seed of the random start of k-means++.

    Returns:
        A `CompressedModel` with the inputs and outputs of the model.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument is out of its range.

    Example:
        >>> import keras, numpy as np
        >>> from keras_notes.compression import strip
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16)])
        >>> len(np.unique(strip(cluster(model, 4)).get_weights()[0]))
        4

    References:
        Han et al., "Deep Compression", ICLR 2016, section 3. Arthur and Vassilvitskii, "k-means++", SODA 2007.
    """
    check_at_least("clusters", clusters, 2)
    check_at_least("seed", seed, 0)
    network, transforms, specs = copy_float_parts(model, "cluster")
    indices = [kernel.variable_index for kernel in kernels_of(network, skip, only_trainable=True)]
    prunings = [transform for transform in transforms if isinstance(transform, Pruning)]
    pruned = {index for pruning in prunings for index in pruning.variable_indices}
    clustering = Clustering(
        indices,
        clusters=clusters,
        pruned=sorted(pruned.intersection(indices)),
        dtype=network.variable_dtype,  # also where layers compute in half precision
    )
    clustered = CompressedModel(network, [*transforms, clustering], input_specs=specs, name=model.name)
    clustering.start(clustered.values_before(clustering), seed)
    return clustered


@keras.saving.register_keras_serializable(package="keras_notes")
class Clustering(WeightTransform):
    """The centroids of kernels.

    Args:
        variable_indices: Indices of the kernels in `network.variables`.
        clusters: Number of different weights of each kernel.
        pruned: Indices of the kernels whose zeros stay; 0 is one of their clusters.

    Attributes:
        centroids: Trained values of each kernel, in the order of the kernels, without the 0 of pruned ones.
    """

    shares_values = True

    def __init__(
        self, variable_indices: Sequence[int], *, clusters: int, pruned: Sequence[int] = (), **kwargs: Any
    ) -> None:
        super().__init__(variable_indices, **kwargs)
        self.clusters = clusters
        self.pruned = frozenset(pruned)
        self.centroids = [
            self.add_weight(shape=(clusters - (index in self.pruned),), initializer="zeros", name=f"centroids_{index}")
            for index in self.variable_indices
        ]
        self.built = True

    def start(self, values: Mapping[int, Tensor], seed: int) -> None:
        """Computes the first centroids by k-means."""
        for index, centroids in zip(self.variable_indices, self.centroids, strict=True):
            weights = ops.convert_to_numpy(values[index]).reshape(-1).astype("float64")
            weights = weights[weights != 0] if index in self.pruned else weights
            centroids.assign(kmeans_1d(weights, centroids.shape[0], seed))

    def call(self, values: Mapping[int, Tensor], training: bool = False) -> dict[int, Tensor]:
        """Returns the kernels, in which each weight is a centroid."""
        return {
            index: cluster_weights(values[index], ops.convert_to_tensor(centroids), index in self.pruned)
            for index, centroids in zip(self.variable_indices, self.centroids, strict=True)
        }

    def get_config(self) -> Config:
        """Returns the arguments."""
        return {**super().get_config(), "clusters": self.clusters, "pruned": sorted(self.pruned)}


def cluster_weights(weights: Tensor, centroids: Tensor, keep_zeros: bool) -> Tensor:
    """Replaces each weight by the centroid nearest to it; the gradient goes to the centroid and to the weight."""
    weights = ops.cast(weights, centroids.dtype)
    ordered = ops.sort(centroids)
    middles = ops.stop_gradient((ordered[1:] + ordered[:-1]) / 2.0)
    members = ops.searchsorted(middles, ops.stop_gradient(ops.reshape(weights, (-1,))))
    clustered = ops.reshape(ops.take(ordered, members), weights.shape)
    if keep_zeros:
        clustered = ops.where(ops.equal(weights, 0.0), 0.0, clustered)
    # The difference is 0, and has the gradient of the weights.
    return clustered + (weights - ops.stop_gradient(weights))


def kmeans_1d(values: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns the centroids of one-dimensional k-means: k-means++, then Lloyd's iteration until no centroid moves.

    Args:
        values: Numbers, of shape (size,).
        count: Number of centroids; some are equal if there are fewer different numbers.
        seed: Seed of the random start.
    """
    rng = np.random.default_rng(seed)
    ordered = np.sort(values)
    if len(ordered) == 0:
        return np.zeros(count)
    centroids = np.sort(_kmeans_plus_plus(ordered, count, rng))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(_MAXIMUM_ITERATIONS):
        ends = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2.0)
        edges = np.concatenate([[0], ends, [len(ordered)]])
        sizes = np.diff(edges)
        moved = np.where(sizes > 0, np.diff(sums[edges]) / np.maximum(sizes, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _kmeans_plus_plus(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the first centroids: the probability of a value is its squared distance to the nearest one before it."""
    centroids = [rng.choice(values)]
    distances = (values - centroids[0]) ** 2
    while len(centroids) < count:
        total = distances.sum()
        centroids.append(rng.choice(values, p=distances / total) if total > 0 else centroids[0])
        distances = np.minimum(distances, (values - centroids[-1]) ** 2)
    return np.array(centroids)
