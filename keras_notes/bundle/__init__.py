"""The bundle: the border between training and device."""

from keras_notes.bundle._bundle import Bundle, as_bundle, check_target, open_bundle, write_bundle
from keras_notes.bundle._candidates import CANDIDATES_FILE, Candidate, Choice, read_choice
from keras_notes.bundle._distance import Distance, distance_between
from keras_notes.bundle._manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    MODEL_FILE,
    FileEntry,
    Manifest,
    SignatureEntry,
    StateEntry,
    TensorEntry,
    Tolerance,
    TrainedFigure,
)
from keras_notes.bundle._tensor_errors import TENSORS_FILE, TensorError, read_tensor_errors
from keras_notes.bundle._tokenizer import TOKENIZER_FILE as TOKENIZER_FILE
from keras_notes.bundle._tokenizer import read_tokenizer as read_tokenizer

__all__ = [
    "CANDIDATES_FILE",
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "TENSORS_FILE",
    "Bundle",
    "Candidate",
    "Choice",
    "Distance",
    "FileEntry",
    "Manifest",
    "SignatureEntry",
    "StateEntry",
    "TensorEntry",
    "TensorError",
    "Tolerance",
    "TrainedFigure",
    "as_bundle",
    "check_target",
    "distance_between",
    "open_bundle",
    "read_choice",
    "read_tensor_errors",
    "write_bundle",
]
