"""Distillation: train a compact student on a teacher's outputs.

teacher ----> TeacherCache (optional: its outputs on disk) --+
   |                                                         |
   +--------> Distiller(teacher, student, losses, features) -+--> distiller.student
"""

from keras_notes.distillation._checkpoint import Checkpoint
from keras_notes.distillation._distiller import Distiller
from keras_notes.distillation._mutual import MutualDistiller
from keras_notes.distillation._seeded_batches import SeededBatches
from keras_notes.distillation.cache._teacher_cache import TeacherCache
from keras_notes.distillation.objective._feature_match import FeatureMatch

__all__ = [
    "Checkpoint",
    "Distiller",
    "FeatureMatch",
    "MutualDistiller",
    "SeededBatches",
    "TeacherCache",
]
