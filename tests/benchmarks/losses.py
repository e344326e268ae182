"""Losses beside those of Keras: gradients against float64, then time as a ratio, interleaved in one run.

python tests/benchmarks/losses.py [--rounds 30]
"""

import argparse
import sys
import time
from pathlib import Path

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from keras_notes.losses import DistillationLoss, FocalLoss
from tests.gradients import value_and_gradient
from tests.losses.references import distillation, exclusive_focal

MARGINS = np.array([5, 0, -5, -10, -15, -16, -17, -20, -50, -100], "float32")
TEMPERATURES = (1.0, 3.0, 20.0, 1000.0)


def focal_gradients():
    """Gradient with respect to the true class's logit where it leads by `margin`, gamma = 2."""
    print("Focal loss, gamma 2: gradient of the true class's logit; relative error against float64")
    print(f"{'margin':>7} {'float64':>12} {'keras':>12} {'keras_notes':>12} {'error keras':>12} {'error ours':>12}")
    ids, one_hot = np.array([0]), np.array([[1.0, 0.0]], "float32")
    theirs, ours = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, from_logits=True), FocalLoss(from_logits=True)
    for margin in MARGINS:
        logits = np.array([[margin, 0.0]], "float32")
        wanted = exclusive_focal(logits, ids, 2.0)[1][0, 0]
        first = value_and_gradient(lambda z: theirs(one_hot, z), logits)[1][0, 0]
        second = value_and_gradient(lambda z: ours(ids, z), logits)[1][0, 0]
        errors = [abs(got / wanted - 1) for got in (first, second)]
        print(f"{margin:7.0f} {wanted:12.5g} {first:12.5g} {second:12.5g} {errors[0]:12.1e} {errors[1]:12.1e}")


def distillation_gradients():
    """Value and gradient on 64 x 10 logits of standard deviation 3."""
    print("\nDistillation, 64 x 10 logits of standard deviation 3: value, and error of the gradient against float64")
    print(f"{'tau':>7} {'float64':>10} {'keras str':>10} {'keras obj':>10} {'ours':>10} {'error str':>10} "
          f"{'error obj':>10} {'error ours':>10}")  # fmt: skip
    rng = np.random.default_rng(0)
    teacher, student = (rng.normal(scale=3, size=(64, 10)).astype("float32") for _ in range(2))
    for tau in TEMPERATURES:
        value, gradient = distillation(teacher, student, tau)
        ours = DistillationLoss(tau)
        by_name = keras.distillation.LogitsDistillation(tau)
        by_object = keras.distillation.LogitsDistillation(tau, loss=keras.losses.KLDivergence())
        functions = (
            lambda s, loss=by_name: loss.compute_loss(keras.ops.convert_to_tensor(teacher), s),
            lambda s, loss=by_object: loss.compute_loss(keras.ops.convert_to_tensor(teacher), s),
            lambda s, loss=ours: loss(teacher, s),
        )
        results = [value_and_gradient(function, student) for function in functions]
        errors = [np.linalg.norm(got * 64 - gradient) / np.linalg.norm(gradient) for _, got in results]
        values = " ".join(f"{float(got):10.4f}" for got, _ in results)
        print(f"{tau:7.0f} {value.mean():10.4f} {values} " + " ".join(f"{error:10.1e}" for error in errors))


def time_ratios(rounds):
    """Forward and backward, compiled, 4,096 x 1,000 logits: medians of interleaved rounds."""
    rng = np.random.default_rng(0)
    logits, teacher = (rng.normal(size=(4096, 1000)).astype("float32") for _ in range(2))
    ids = rng.integers(0, 1000, 4096)
    one_hot = np.eye(1000, dtype="float32")[ids]
    cases = {
        "keras sparse cross-entropy": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), ids),
        "keras focal (one-hot)": (keras.losses.CategoricalFocalCrossentropy(from_logits=True), one_hot),
        "FocalLoss (ids)": (FocalLoss(from_logits=True), ids),
        "FocalLoss (one-hot)": (FocalLoss(from_logits=True), one_hot),
        "keras KLDivergence on softmax": (lambda t, s: _keras_distillation(t, s), teacher),
        "DistillationLoss": (DistillationLoss(3.0), teacher),
    }
    steps = {name: _compiled_step(*case) for name, case in cases.items()}
    elapsed = {name: [] for name in cases}
    for step in steps.values():
        step(logits)
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step(logits)
            elapsed[name].append(time.perf_counter() - start)
    medians = {name: np.median(times) for name, times in elapsed.items()}
    print(f"\nForward and backward, compiled, 4,096 x 1,000, {rounds} interleaved rounds: time / sparse cross-entropy")
    for name, median in medians.items():
        low, high = np.percentile(elapsed[name], [25, 75]) / medians["keras sparse cross-entropy"]
        print(
            f"  {name:<32} {median / medians['keras sparse cross-entropy']:6.2f}  (quartiles {low:.2f} to {high:.2f})"
        )


def _keras_distillation(teacher, student):
    loss = keras.distillation.LogitsDistillation(3.0, loss=keras.losses.KLDivergence())
    return loss.compute_loss(keras.ops.convert_to_tensor(teacher), student)


def _compiled_step(loss, y_true):
    import tensorflow as tf

    labels = tf.constant(y_true)

    @tf.function(jit_compile=True, autograph=False)
    def step(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits)
        return tape.gradient(value, logits)

    return lambda logits: step(tf.constant(logits)).numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    focal_gradients()
    distillation_gradients()
    time_ratios(options.rounds)
