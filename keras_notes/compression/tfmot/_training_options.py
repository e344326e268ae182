"""The training options that all functions of `keras_notes.compression.tfmot` share."""

from __future__ import annotations

from dataclasses import dataclass

from keras_notes._shared.checks import check_at_least, check_choice, check_positive
from keras_notes._shared.types import Config

__all__ = ["TrainingOptions"]

_LOSSES = (
    "binary_crossentropy",
    "categorical_crossentropy",
    "mean_absolute_error",
    "mean_squared_error",
    "sparse_categorical_crossentropy",
)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training in TF-MOT's process, checked when they are made.

    Attributes:
        steps: Number of training steps.
        batch_size: Number of samples of a batch.
        learning_rate: Learning rate of Adam.
        loss: Name of the loss.
        from_logits: Whether a cross-entropy gets logits.
        seed: Seed of TensorFlow's random generators.
        minimum_steps: Smallest number of steps that the task allows.

    Raises:
        TypeError: If a number is not a number.
        ValueError: If an option is out of its range.
    """

    steps: int
    batch_size: int
    learning_rate: float
    loss: str
    from_logits: bool
    seed: int = 0
    minimum_steps: int = 0

    def __post_init__(self) -> None:
        check_at_least("steps", self.steps, self.minimum_steps)
        check_at_least("batch_size", self.batch_size, 1)
        check_positive("learning_rate", self.learning_rate)
        check_choice("loss", self.loss, _LOSSES)
        check_choice("from_logits", self.from_logits, (True, False))
        check_at_least("seed", self.seed, 0)

    def to_settings(self) -> Config:
        """Returns the options as the process reads them from `job.json`."""
        return {
            "steps": int(self.steps),
            "batch_size": int(self.batch_size),
            "learning_rate": float(self.learning_rate),
            "loss": self.loss,
            "from_logits": bool(self.from_logits),
            "seed": int(self.seed),
        }
