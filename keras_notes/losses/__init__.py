"""Losses: plain Keras `Loss` classes over pure functions, for every backend.

classification            FocalLoss, AsymmetricLoss, class_balanced_alpha
distillation of logits    DistillationLoss, DecoupledDistillationLoss, CorrelationDistillationLoss,
                          JensenShannonDistillationLoss; top_k_targets, with_labels
distillation of features  HintLoss, AttentionTransferLoss, SimilarityPreservingLoss, RelationalLoss,
                          ProbabilisticTransferLoss, AttentionRelationLoss

base classes              TeacherLoss, WholeSampleLoss

In a distillation loss `y_true` holds the teacher's outputs or features.
"""

from keras_notes.losses._attention_relations import AttentionRelationLoss
from keras_notes.losses._base import TeacherLoss, WholeSampleLoss
from keras_notes.losses._correlation import CorrelationDistillationLoss
from keras_notes.losses._decoupled import DecoupledDistillationLoss
from keras_notes.losses._distillation import DistillationLoss
from keras_notes.losses._features import AttentionTransferLoss, HintLoss
from keras_notes.losses._focal import FocalLoss
from keras_notes.losses._imbalance import AsymmetricLoss, class_balanced_alpha
from keras_notes.losses._jensen_shannon import JensenShannonDistillationLoss
from keras_notes.losses._relations import ProbabilisticTransferLoss, RelationalLoss, SimilarityPreservingLoss
from keras_notes.losses._teacher_targets import top_k_targets, with_labels

__all__ = [
    "AsymmetricLoss",
    "AttentionRelationLoss",
    "AttentionTransferLoss",
    "CorrelationDistillationLoss",
    "DecoupledDistillationLoss",
    "DistillationLoss",
    "FocalLoss",
    "HintLoss",
    "JensenShannonDistillationLoss",
    "ProbabilisticTransferLoss",
    "RelationalLoss",
    "SimilarityPreservingLoss",
    "TeacherLoss",
    "WholeSampleLoss",
    "class_balanced_alpha",
    "top_k_targets",
    "with_labels",
]
