"""Losses beside those of Keras: accuracy against float64 at every margin, then time and memory, interleaved in one run.

    python -m benchmarks losses accuracy [--rounds 30]

Time: forward and backward of 4,096 x 1,000 logits on TensorFlow, with and without XLA, as multiples of Keras's fused
sparse cross-entropy in the same round; median and quartiles of the rounds. Logits have the standard deviation 3 and
the temperature is 4; "near" is a student within 0.01 of its teacher. Memory, as multiples of the logits' 15.6 MiB, the
gradient included: without XLA by how much a fresh TensorFlow process grows in its first step (Linux only), with XLA
what the compiler reserves for results and temporaries (JAX).
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from benchmarks import command_line
from keras_notes import losses
from tests.losses.references import distillation, exclusive_focal, log_softmax
from tests.support.gradients import value_and_gradient

MARGINS = np.array([100, 50, 20, 10, 5, 0, -5, -10, -15, -16, -17, -20, -50, -100], "float32")
TEMPERATURES = (1.0, 3.0, 20.0, 1000.0)
SAMPLES, CLASSES, TEMPERATURE = 4096, 1000, 4.0
PROCESS = Path("/proc/self")


def relative_error(actual, expected):
    """Returns |actual / expected - 1|, and 0 where both are below float32's smallest normal number."""
    return 0.0 if max(abs(actual), abs(expected)) < 1.2e-38 else abs(float(actual) / expected - 1)


def print_focal_gradients():
    """Prints value and gradient of the true class's logit where it leads by `margin`, gamma = 2."""
    print("Focal loss, gamma 2, where the true class leads by `margin`: gradient of its logit; relative errors against "
          "float64")  # fmt: skip
    print(f"{'margin':>7} {'float64':>12} {'keras':>12} {'keras_notes':>12} {'error keras':>12} {'error ours':>11} "
          f"{'ours, value':>12}")  # fmt: skip
    ids, one_hot = np.array([0]), np.array([[1.0, 0.0]], "float32")
    theirs = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, from_logits=True)
    ours = losses.FocalLoss(from_logits=True)
    for margin in MARGINS:
        logits = np.array([[margin, 0.0]], "float32")
        expected_value, expected = (float(part.flat[0]) for part in exclusive_focal(logits, ids, 2.0))
        first = value_and_gradient(lambda z: theirs(one_hot, z), logits)[1][0, 0]
        value, gradient = value_and_gradient(lambda z: ours(ids, z), logits)
        print(f"{margin:7.0f} {expected:12.5g} {first:12.5g} {gradient[0, 0]:12.5g} "
              f"{relative_error(first, expected):12.1e} {relative_error(gradient[0, 0], expected):11.1e} "
              f"{relative_error(value, expected_value):12.1e}")  # fmt: skip


def print_distillation_at_margins():
    """Prints KL between a teacher that prefers class 0 by 2 and a student that prefers it by `margin`, ten classes."""
    print("\nDistillation at T = 1, ten classes; the teacher prefers class 0 by 2, the student by `margin`: value, and "
          "relative\nerror of value and gradient against float64; keras is KLDivergence on softmax")  # fmt: skip
    print(f"{'margin':>7} {'float64':>12} {'keras':>12} {'keras_notes':>12} {'value keras':>12} {'ours':>8} "
          f"{'grad keras':>11} {'ours':>8}")  # fmt: skip
    teacher = np.zeros((1, 10), "float32")
    teacher[0, 0] = 2.0
    for margin in MARGINS:
        student = np.zeros((1, 10), "float32")
        student[0, 0] = margin
        value, gradient = distillation(teacher, student, 1.0)
        results = [
            value_and_gradient(function, student)
            for function in (
                lambda s: keras_distillation(1.0)(teacher, s),
                lambda s: losses.DistillationLoss(1.0)(teacher, s),
            )
        ]
        values = " ".join(f"{float(result):12.5g}" for result, _ in results)
        value_errors = [relative_error(result, value[0]) for result, _ in results]
        gradient_errors = [np.linalg.norm(result - gradient) / np.linalg.norm(gradient) for _, result in results]
        print(f"{margin:7.0f} {value[0]:12.5g} {values} {value_errors[0]:12.1e} {value_errors[1]:8.1e} "
              f"{gradient_errors[0]:11.1e} {gradient_errors[1]:8.1e}")  # fmt: skip


def print_distillation_at_temperatures():
    """Prints value and gradient on 64 x 10 logits of standard deviation 3."""
    print("\nDistillation, 64 x 10 logits of standard deviation 3: value, and error of the gradient against float64")
    print(f"{'tau':>7} {'float64':>10} {'keras str':>10} {'keras obj':>10} {'ours':>10} {'error str':>10} "
          f"{'error obj':>10} {'error ours':>10}")  # fmt: skip
    rng = np.random.default_rng(0)
    teacher, student = (rng.normal(scale=3, size=(64, 10)).astype("float32") for _ in range(2))
    for tau in TEMPERATURES:
        value, gradient = distillation(teacher, student, tau)
        ours = losses.DistillationLoss(tau)
        by_name = keras.distillation.LogitsDistillation(tau)
        functions = (
            lambda s, loss=by_name: loss.compute_loss(keras.ops.convert_to_tensor(teacher), s),
            lambda s, tau=tau: keras_distillation(tau)(teacher, s),
            lambda s, loss=ours: loss(teacher, s),
        )
        results = [value_and_gradient(function, student) for function in functions]
        errors = [np.linalg.norm(result * 64 - gradient) / np.linalg.norm(gradient) for _, result in results]
        values = " ".join(f"{float(result):10.4f}" for result, _ in results)
        print(f"{tau:7.0f} {value.mean():10.4f} {values} " + " ".join(f"{error:10.1e}" for error in errors))


def keras_distillation(temperature):
    """Returns keras.distillation's loss with a KLDivergence object."""
    loss = keras.distillation.LogitsDistillation(temperature, loss=keras.losses.KLDivergence())
    return lambda teacher, student: loss.compute_loss(keras.ops.convert_to_tensor(teacher), student)


def timed_cases():
    """Returns the student's logits; and by name a loss and its first argument, all computed by NumPy alone."""
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(scale=3, size=(SAMPLES, CLASSES)).astype("float32") for _ in range(2))
    near = (student + rng.normal(scale=0.01, size=student.shape)).astype("float32")
    ids = rng.integers(0, CLASSES, SAMPLES)
    one_hot = np.eye(CLASSES, dtype="float32")[ids]
    cached = log_softmax(teacher / TEMPERATURE).astype("float32")
    distil = losses.DistillationLoss(TEMPERATURE)
    at_t = {"temperature": TEMPERATURE, "teacher_temperature": TEMPERATURE}
    return student, {
        "keras sparse cross-entropy": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), ids),
        "keras focal (one-hot)": (keras.losses.CategoricalFocalCrossentropy(from_logits=True), one_hot),
        "FocalLoss, class ids": (losses.FocalLoss(from_logits=True), ids),
        "FocalLoss, one-hot": (losses.FocalLoss(from_logits=True), one_hot),
        "FocalLoss, soft labels": (losses.FocalLoss(from_logits=True), np.exp(cached)),
        "FocalLoss, independent": (losses.FocalLoss(exclusive=False, from_logits=True), one_hot),
        "AsymmetricLoss": (losses.AsymmetricLoss(from_logits=True), one_hot),
        "keras binary focal": (keras.losses.BinaryFocalCrossentropy(from_logits=True), one_hot),
        "keras binary cross-entropy": (keras.losses.BinaryCrossentropy(from_logits=True), one_hot),
        "keras KLDivergence on softmax": (keras_distillation(TEMPERATURE), teacher),
        "DistillationLoss": (distil, teacher),
        "DistillationLoss, near": (distil, near),
        "DistillationLoss, cached log-probs": (losses.DistillationLoss(teacher="log_probs", **at_t), cached),
        "DistillationLoss, top 10": (losses.DistillationLoss(teacher="top_k", **at_t), top_ten(cached)),
        "DistillationLoss, independent": (losses.DistillationLoss(TEMPERATURE, exclusive=False), teacher),
        "DecoupledDistillationLoss": (losses.DecoupledDistillationLoss(), teacher),
        "JensenShannonDistillationLoss": (losses.JensenShannonDistillationLoss(temperature=TEMPERATURE), teacher),
        "CorrelationDistillationLoss": (losses.CorrelationDistillationLoss(temperature=TEMPERATURE), teacher),
    }


def top_ten(log_probs):
    """Returns the ten largest as `top_k_targets` does."""
    ids = np.argsort(-log_probs)[:, :10]
    listed = np.take_along_axis(log_probs, ids, axis=1)
    rest = np.log1p(-np.exp(listed).sum(axis=1, keepdims=True))
    pairs = np.concatenate([ids, np.full_like(rest, -1)], axis=1), np.concatenate([listed, rest], axis=1)
    return np.stack(pairs, axis=-1).astype("float32")


def print_time_ratios(rounds):
    """Prints the table of time and memory."""
    student, cases = timed_cases()
    steps = compile_steps(student, cases)
    elapsed = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            start = time.perf_counter()
            step()
            elapsed[key].append(time.perf_counter() - start)
    memory = measure_peak_memory(cases)
    print(f"\nForward and backward, 4,096 x 1,000, {rounds} interleaved rounds: time / Keras's sparse cross-entropy "
          f"(quartiles);\npeak memory / the logits' {student.nbytes / 2**20:.1f} MiB")  # fmt: skip
    print(f"  {'':<36} {'without XLA':<20} {'with XLA':<20} {'memory':>7} {'with XLA':>9}")
    for name in cases:
        columns = [ratio(elapsed[name, xla], elapsed["keras sparse cross-entropy", xla]) for xla in (False, True)]
        peaks = [memory[name, xla] / student.nbytes for xla in (False, True)]
        print(f"  {name:<36} {columns[0]:<20} {columns[1]:<20} {peaks[0]:7.1f} {peaks[1]:9.1f}")


def ratio(times, baseline):
    """Median and quartiles of the rounds' ratios."""
    low, median, high = np.percentile(np.array(times) / np.array(baseline), [25, 50, 75])
    return f"{median:5.2f} ({low:.2f} to {high:.2f})"


def compile_steps(student, cases):
    """Returns a compiled and warm step for each case, without and with XLA."""
    steps = {(name, xla): compile_step(*case, student, xla) for xla in (False, True) for name, case in cases.items()}
    for step in steps.values():
        step()
        step()
    return steps


def compile_step(loss, y_true, student, xla):
    """Returns a function that computes the loss and its gradient, and waits for them."""
    import tensorflow as tf

    labels, logits = tf.constant(y_true), tf.constant(student)

    @tf.function(jit_compile=xla, autograph=False)
    def step(labels, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits)
        return value, tape.gradient(value, logits)

    return lambda: step(labels, logits)[1][0, 0].numpy()


def measure_peak_memory(cases):
    """Measures the peak bytes by case, without and with XLA; each in a fresh process, whose allocator holds nothing."""
    peaks = {}
    for name in cases:
        peaks[name, False] = measure_in_process("tensorflow", "--growth-of", name)
    compiled = measure_in_process("jax", "--compiled-memory")
    return peaks | {(name, True): size for name, size in compiled.items()}


def measure_in_process(backend, *arguments):
    """Runs this benchmark on another backend with other arguments; returns the JSON of its last line."""
    environment = {**os.environ, "KERAS_BACKEND": backend}
    command = command_line.own_command("losses", "accuracy", *arguments)
    settings = {"env": environment, "cwd": command_line.ROOT, "capture_output": True, "text": True}
    result = subprocess.run(command, **settings, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def measure_growth(name):
    """Measures by how many bytes this process grows at most in its first step; NaN where Linux does not tell."""
    import tensorflow as tf

    student, cases = timed_cases()
    loss, y_true = cases[name]
    labels, logits = tf.constant(y_true), tf.constant(student)
    signature = [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in (labels, logits)]

    @tf.function(autograph=False, input_signature=signature)
    def step(labels, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits)
        return value, tape.gradient(value, logits)

    step(labels[:8], logits[:8])
    try:
        (PROCESS / "clear_refs").write_text("5")  # sets the peak to what is held now
    except OSError:
        return float("nan")
    before = read_process_bytes("VmRSS")
    step(labels, logits)
    return read_process_bytes("VmHWM") - before


def read_process_bytes(name):
    """Reads a figure of /proc/self/status."""
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure_compiled_memory():
    """Measures the bytes that XLA reserves for results and temporaries, by case."""
    import jax

    student, cases = timed_cases()
    sizes = {}
    for name, (loss, y_true) in cases.items():
        step = jax.jit(jax.value_and_grad(lambda logits, labels, loss=loss: loss(labels, logits)))
        memory = step.lower(student, jax.numpy.asarray(y_true)).compile().memory_analysis()
        sizes[name] = memory.temp_size_in_bytes + memory.output_size_in_bytes
    return sizes


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("losses accuracy", __doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--growth-of", metavar="CASE", help="print the memory of one case only")
    parser.add_argument("--compiled-memory", action="store_true", help="print what XLA reserves only")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints all tables, or the memory that is asked for."""
    options = build_parser().parse_args(arguments)
    if options.growth_of:
        print(json.dumps(measure_growth(options.growth_of)))
    elif options.compiled_memory:
        print(json.dumps(measure_compiled_memory()))
    else:
        print_focal_gradients()
        print_distillation_at_margins()
        print_distillation_at_temperatures()
        print_time_ratios(options.rounds)
