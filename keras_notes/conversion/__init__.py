"""Conversion: from a trained Keras model to a bundle."""

from keras_notes._shared.recipe_names import AUTO as AUTO
from keras_notes._shared.recipe_names import EDGES as EDGES
from keras_notes._shared.recipe_names import RECIPES as RECIPES
from keras_notes.bundle import Candidate, Choice, read_choice
from keras_notes.conversion._convert import convert
from keras_notes.conversion._keras2_files import keras2_hard_sigmoid, load_keras2_model
from keras_notes.conversion._streaming import streaming_model

__all__ = [
    "Candidate",
    "Choice",
    "convert",
    "keras2_hard_sigmoid",
    "load_keras2_model",
    "read_choice",
    "streaming_model",
]
