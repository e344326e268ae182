"""Chains of distillation on scikit-learn's digits: born-again networks, and a teacher assistant between two sizes.

    python examples/distillation_chains.py [--seeds 5]

Protocol, declared before anything runs: 1,200 training and 597 test images, one split for all; 120 of the training
images have labels, the others the label -1, so that they count in the teacher's term alone. Each model is the one after
its last epoch; nothing is chosen on test images; every seed starts everything anew, the teacher included.

* Born again (Furlanello et al. 2018, https://arxiv.org/abs/1805.04770): the same architecture is distilled from
  itself, generation by generation; then the mean of all generations.
* Teacher assistant (Mirzadeh et al. 2020, https://arxiv.org/abs/1902.03393): a network of middle size is distilled
  from the teacher, and the student from it; beside it the student straight from the teacher, and from both at once.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_notes as kn

TRAIN_IMAGES, LABELLED_IMAGES, UNLABELLED = 1200, 120, -1
TEACHER_WIDTH, ASSISTANT_WIDTH, STUDENT_WIDTH = 256, 32, 6
EPOCHS, BATCH_SIZE, LEARNING_RATE, TEMPERATURE, STUDENT_LOSS_WEIGHT = 40, 32, 2e-3, 2.0, 0.1
GENERATIONS = 2


def digits():
    """Training and test images with labels; most of the training labels are taken away."""
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        (images / 16.0).astype("float32"), labels, train_size=TRAIN_IMAGES, stratify=labels, random_state=0
    )
    return x, np.where(np.arange(len(y)) < LABELLED_IMAGES, y, UNLABELLED), y, x_test, y_test


def classifier(width):
    """64-width-10 with logits."""
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(width, "relu"), keras.layers.Dense(10)])


def trained(model, x, y):
    """A model after training on labels, of which some may be missing."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=UNLABELLED)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss)
    model.fit(x, y, epochs=EPOCHS, batch_size=BATCH_SIZE, verbose=0)
    return model


def distilled(teacher, width, x, y):
    """A new model of this width, after distillation from a teacher or several."""
    student = classifier(width)
    trained(kn.Distiller(teacher, student, student_loss_weight=STUDENT_LOSS_WEIGHT, temperature=TEMPERATURE), x, y)
    return student


def accuracy(models, x, y):
    """The share of right classes of one model, or of the mean of several models' probabilities."""
    models = models if isinstance(models, list) else [models]
    probs = np.mean([keras.ops.convert_to_numpy(keras.ops.softmax(m.predict(x, verbose=0))) for m in models], axis=0)
    return float((probs.argmax(-1) == y).mean())


def chains(seed):
    """The test accuracy of every model of one seed."""
    keras.utils.set_random_seed(seed)
    x, y, all_labels, x_test, y_test = digits()
    rows = {}

    def measured(name, models):
        rows[name] = accuracy(models, x_test, y_test)
        return models

    # The generations know the few labels only, as a teacher with all labels would leave them nothing to gain.
    generations = [measured("first, from 120 labels", trained(classifier(ASSISTANT_WIDTH), x, y))]
    for generation in range(1, GENERATIONS + 1):
        model = distilled(generations[-1], ASSISTANT_WIDTH, x, y)
        generations.append(measured(f"born again, generation {generation}", model))
    measured("mean of the generations", generations)

    teacher = measured("teacher, from all labels", trained(classifier(TEACHER_WIDTH), x, all_labels))
    measured("student from 120 labels", trained(classifier(STUDENT_WIDTH), x, y))
    measured("student from the teacher", distilled(teacher, STUDENT_WIDTH, x, y))
    assistant = measured("assistant from the teacher", distilled(teacher, ASSISTANT_WIDTH, x, y))
    measured("student from the assistant", distilled(assistant, STUDENT_WIDTH, x, y))
    measured("student from both", distilled([teacher, assistant], STUDENT_WIDTH, x, y))
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    results = [chains(seed) for seed in range(seeds)]
    print(f"test accuracy, {seeds} seeds         mean   least  largest")
    for name in results[0]:
        values = [rows[name] for rows in results]
        print(f"  {name:30} {np.mean(values):.4f}  {min(values):.4f}  {max(values):.4f}")


if __name__ == "__main__":
    main()
