"""TF-MOT's own quantization-aware training, pruning and clustering, for Keras 3 models.

TF-MOT (tensorflow-model-optimization) is the established scheme, and works with Keras 2 only: a functional or
sequential model is built anew in tf_keras, in a process of its own, because importing TF-MOT makes a process one of
tf_keras. It trains there, on batches in the order of the samples, and its file or its weights come back.

It needs `pip install 'keras_notes[tfmot]'`. `keras_notes.compression` itself takes more layers, and its models train as
Keras 3 models do; this module is for those who want TF-MOT's scheme, or compare with it.
"""

from keras_notes.compression.tfmot._api import Trained, cluster, prune, quantize_aware, step_times

__all__ = ["Trained", "cluster", "prune", "quantize_aware", "step_times"]
