"""TF-MOT's own quantization-aware training, pruning and clustering, for Keras 3 models.

TF-MOT (tensorflow-model-optimization) is the established scheme, and works with Keras 2 only. A functional or
sequential model is therefore translated to tf_keras in a separate process, because a process that imports TF-MOT can
use no other Keras than tf_keras. The model trains there, on batches in the order of the samples; this process then
reads its file or its weights.

It needs `pip install 'keras_notes[tfmot]'`. `keras_notes.compression` itself takes more layers, and its models train as
Keras 3 models do; use this module if you need TF-MOT's scheme, or want to compare with it.
"""

from keras_notes.compression.tfmot._api import Trained, cluster, prune, quantize_aware, step_times

__all__ = ["Trained", "cluster", "prune", "quantize_aware", "step_times"]
