"""`cluster`: kernels of few different weights, which are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_notes._shared.checks import check_at_least
from keras_notes.compression._compressed_model import CompressedModel, without_integers
from keras_notes.compression._prunable_kernels import kernels_of
from keras_notes.compression._pruning import Pruning
from keras_notes.compression._weight_transform import WeightTransform

__all__ = ["Clustering", "cluster"]

_MOST_ITERATIONS = 100


def cluster(model: keras.Model, clusters: int, *, skip: Sequence[str] = (), seed: int = 0) -> CompressedModel:
    """Returns a model whose kernels have at most `clusters` different weights each, which train with the network.

    The centroids start from k-means. Each weight is the centroid nearest to its variable, at every step anew. The
    centroids are trained, each by the sum of the gradients of its members; so are the variables, by the gradient
    straight through, so that weights change their cluster. A file whose weights take few values compresses well (zip,
    and what app stores do); it is not smaller by itself.

    Args:
        model: A built model, which stays as it is; or one that `prune` made, whose zeros stay: in its pruned kernels 0
            is one of the clusters, which no other weight joins. Give that model itself: its `strip` has no masks.
            Its trainable kernels are clustered, those of recurrent cells too; no embeddings, biases and normalizations.
        clusters: The most different weights in a kernel, at least 2. There are fewer where the kernel has fewer, or
            where training leaves a centroid without members.
        skip: Patterns of layer names, or of paths ("block/*"), that stay as they are.
        seed: Of the random start of k-means++.

    Returns:
        A `CompressedModel` with the inputs and outputs of the model.

    Raises:
        TypeError: If an argument is of a wrong type.
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
    network, transforms, specs = without_integers(model, "cluster")
    numbers = [kernel.number for kernel in kernels_of(network, skip, only_trainable=True)]
    pruned = {number for one in transforms if isinstance(one, Pruning) for number in one.numbers}
    clustering = Clustering(
        numbers,
        clusters=clusters,
        pruned=sorted(pruned.intersection(numbers)),
        dtype=network.variable_dtype,  # also where layers compute in half precision
    )
    made = CompressedModel(network, [*transforms, clustering], input_specs=specs, name=model.name)
    clustering.start(made.values_before(clustering), seed)
    return made


@keras.saving.register_keras_serializable(package="keras_notes")
class Clustering(WeightTransform):
    """The centroids of kernels.

    Args:
        numbers: The kernels, by their number in `network.variables`.
        clusters: The number of different weights of each.
        pruned: The kernels whose weights stay 0 where they are, which is one of their clusters.

    Attributes:
        centroids: The trained values of each kernel, in their order, without the 0 of pruned ones.
    """

    shares_values = True

    def __init__(self, numbers: Sequence[int], *, clusters: int, pruned: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(numbers, **kwargs)
        self.clusters = clusters
        self.pruned = frozenset(pruned)
        self.centroids = [
            self.add_weight(
                shape=(clusters - (number in self.pruned),), initializer="zeros", name=f"centroids_{number}"
            )
            for number in self.numbers
        ]
        self.built = True

    def start(self, values: Mapping[int, Any], seed: int) -> None:
        """Finds the first centroids."""
        for number, centroids in zip(self.numbers, self.centroids, strict=True):
            flat = ops.convert_to_numpy(values[number]).reshape(-1).astype("float64")
            counting = flat[flat != 0] if number in self.pruned else flat
            centroids.assign(means_of(counting, centroids.shape[0], seed))

    def call(self, values: Mapping[int, Any], training: bool = False) -> dict[int, Any]:
        """The kernels, each weight a centroid."""
        return {
            number: _clustered(values[number], ops.convert_to_tensor(centroids), number in self.pruned)
            for number, centroids in zip(self.numbers, self.centroids, strict=True)
        }

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), "clusters": self.clusters, "pruned": sorted(self.pruned)}


def _clustered(weights: Any, centroids: Any, keeps_zeros: bool) -> Any:
    """Each weight as the centroid nearest to it; the gradient goes to the centroid and to the weight."""
    weights = ops.cast(weights, centroids.dtype)
    ordered = ops.sort(centroids)
    middles = ops.stop_gradient((ordered[1:] + ordered[:-1]) / 2.0)
    members = ops.searchsorted(middles, ops.stop_gradient(ops.reshape(weights, (-1,))))
    clustered = ops.reshape(ops.take(ordered, members), weights.shape)
    if keeps_zeros:
        clustered = ops.where(ops.equal(weights, 0.0), 0.0, clustered)
    # The difference is 0, and has the gradient of the weights.
    return clustered + (weights - ops.stop_gradient(weights))


def means_of(values: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The centroids of k-means over numbers, from k-means++, by Lloyd's iteration until nothing moves.

    Args:
        values: One axis of numbers.
        count: The number of centroids; where there are fewer different numbers, some are equal.
        seed: Of the random start.
    """
    rng = np.random.default_rng(seed)
    ordered = np.sort(values)
    if len(ordered) == 0:
        return np.zeros(count)
    centroids = np.sort(_far_apart(ordered, count, rng))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(_MOST_ITERATIONS):
        ends = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2.0)
        edges = np.concatenate([[0], ends, [len(ordered)]])
        sizes = np.diff(edges)
        moved = np.where(sizes > 0, np.diff(sums[edges]) / np.maximum(sizes, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return centroids


def _far_apart(values: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The start of k-means++: each next one with a chance by its squared distance to the nearest before."""
    chosen = [rng.choice(values)]
    distances = (values - chosen[0]) ** 2
    while len(chosen) < count:
        total = distances.sum()
        chosen.append(rng.choice(values, p=distances / total) if total > 0 else chosen[0])
        distances = np.minimum(distances, (values - chosen[-1]) ** 2)
    return np.array(chosen)
