"""Time and memory of distillation beside those of training the student alone.

    python -m benchmarks distillation cost [--rounds 9] [--samples 12800] [--quick]

The protocol, set down before the first run. Networks: a teacher of six convolutions, 48 wide, and a student of four, 8
wide, on 28 x 28 grey images (uint8, scaled inside); Fashion-MNIST's first training images, batches of 128, Adam. No
metrics. Every way of training is one model, compiled once and warmed up by one epoch; then come rounds of one epoch
each, all ways interleaved and each round in another order. A row's ratio is taken to its reference in the same round;
median and quartiles of the rounds. Beside it stands the ratio of CPU time, all threads together: it shows work that a
second core hides. A claim counts as met if the median of the wall-clock ratio meets it.

Claims: (1) a cached epoch takes at most 1.05 times an epoch of the student alone on the same batches; (2) an epoch with
the teacher running takes at most 1.05 times what the student alone and `teacher.predict` take together; (3) building a
cache takes at most 1.10 times `predict` of the same outputs. A build compiles the teacher, so `predict` is compiled
again in each round, too; the ratio to a `predict` that was compiled before is printed beside it.

`keras.distillation` cannot match features of unequal width, so its row with FeatureDistillation has a student whose
last convolution is 48 wide; that student alone, and ours with the same match, are rows of their own.

Memory: the largest anonymous memory of a process (RssAnon of Linux, read every 2 ms: what is mapped from files does not
count), for a build and for a cached epoch, over memory-mapped images of N and of 8 N samples; each in a process of its
own, the median of the repetitions. Teacher and student are the small student there.
"""

import argparse
import functools
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from benchmarks import command_line
from benchmarks.distillation.memory import BATCH, REPETITIONS, SAMPLES, SHAPE, network, print_memory, student_network
from examples.datasets import fashion_mnist
from keras_notes import losses
from keras_notes.distillation import Distiller, FeatureMatch, SeededBatches, TeacherCache

CACHED, LIVE, BUILD = 1.05, 1.05, 1.10
TEMPERATURE, STUDENT_LOSS_WEIGHT, TOP_K = 2.0, 0.1, 3
TEACHER_WIDTH = 48
HINT, ATTENTION = ("conv_6", "conv_4"), ("conv_5", "conv_3")

ALONE, WIDE_ALONE, PREDICT = "student on SeededBatches", "wide student on SeededBatches", "teacher.predict"
LIVE_KINDS = {
    "Distiller, live": ALONE,
    "Distiller, live, two features": ALONE,
    "keras Distiller, logits": ALONE,
    "wide: Distiller, hint": WIDE_ALONE,
    "wide: keras Distiller, feature": WIDE_ALONE,
}
CACHED_KINDS = ("Distiller, cached float16", f"Distiller, cached top {TOP_K}")
PREDICT_AGAIN, PREDICT_FEATURES = "predict, compiled before", "predict of outputs, features"
FIRST_PREDICT, BUILD_OUTPUTS, BUILD_FEATURES = "predict of outputs", "build of outputs", "build of outputs, features"


def teacher_network():
    """Six convolutions; on 28 x 28, 14 x 14 and 7 x 7 positions two each."""
    return network([TEACHER_WIDTH] * 6, pooled_after=(2, 4))


def wide_student_network():
    """The student, whose last convolution is as wide as the teacher's."""
    return network([8, 8, 8, TEACHER_WIDTH], pooled_after=(1, 2))


def compiled(model):
    """The model, ready for `fit`."""
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def distiller(teacher, student, loss=None, features=()):
    """A compiled Distiller of ours."""
    loss = loss or losses.DistillationLoss(TEMPERATURE)
    return compiled(Distiller(teacher, student, loss, None, STUDENT_LOSS_WEIGHT, features=features))


def keras_distiller(teacher, student, *others):
    """A compiled Distiller of Keras."""
    distillation_losses = [keras.distillation.LogitsDistillation(TEMPERATURE, keras.losses.KLDivergence()), *others]
    return compiled(
        keras.distillation.Distiller(
            teacher, student, distillation_losses=distillation_losses, student_loss_weight=STUDENT_LOSS_WEIGHT
        )
    )


def hint():
    """The last convolutions, entry by entry."""
    return FeatureMatch(*HINT, losses.HintLoss())


def features():
    """Two matched features."""
    return [hint(), FeatureMatch(*ATTENTION, losses.AttentionTransferLoss())]


def trainings(x, y, folder):
    """By name a function that runs one epoch."""
    teacher = teacher_network()
    build = functools.partial(TeacherCache.build, teacher, x, batch_size=BATCH, verbose=0)
    cache = build(folder / "outputs")
    top_k = build(folder / "top_k", top_k=TOP_K, temperature=TEMPERATURE)
    with_features = build(folder / "features", features=[HINT[0], ATTENTION[0]])
    top_k_loss = losses.DistillationLoss(TEMPERATURE, teacher="top_k", teacher_temperature=TEMPERATURE)
    keras_feature = keras.distillation.FeatureDistillation("mse", *HINT)

    def on(model, join=lambda batches: batches):
        return functools.partial(model.fit, join(SeededBatches(x, y, batch_size=BATCH)), verbose=0)

    return {
        "student on arrays": functools.partial(compiled(student_network()).fit, x, y, BATCH, verbose=0),
        ALONE: on(compiled(student_network())),
        PREDICT: functools.partial(teacher.predict, x, BATCH, verbose=0),
        CACHED_KINDS[0]: on(distiller(cache, student_network()), cache.join),
        CACHED_KINDS[1]: on(distiller(top_k, student_network(), top_k_loss), top_k.join),
        "Distiller, cached, two features": on(
            distiller(with_features, student_network(), features=features()), with_features.join
        ),
        "Distiller, live": on(distiller(teacher, student_network())),
        "Distiller, live, two features": on(distiller(teacher, student_network(), features=features())),
        "keras Distiller, logits": on(keras_distiller(teacher, student_network())),
        WIDE_ALONE: on(compiled(wide_student_network())),
        "wide: Distiller, hint": on(distiller(teacher, wide_student_network(), features=hint())),
        "wide: keras Distiller, feature": on(keras_distiller(teacher, wide_student_network(), keras_feature)),
    }


def builds(x, folder):
    """By name a function that gets or keeps what the teacher says of all samples."""
    teacher = teacher_network()
    layers = [HINT[0], ATTENTION[0]]
    taps = keras.Model(teacher.inputs, [teacher.outputs[0], *(teacher.get_layer(name).output for name in layers)])

    def predict(model):
        model.compile()  # drops what was compiled before
        model.predict(x, BATCH, verbose=0)

    def build(name, **options):
        shutil.rmtree(folder / name, ignore_errors=True)
        TeacherCache.build(teacher, x, folder / name, batch_size=BATCH, verbose=0, **options)

    again = teacher_network()
    return {
        PREDICT_AGAIN: functools.partial(again.predict, x, BATCH, verbose=0),
        FIRST_PREDICT: functools.partial(predict, teacher),
        BUILD_OUTPUTS: functools.partial(build, "outputs"),
        f"build of the top {TOP_K}": functools.partial(build, "top_k", top_k=TOP_K, temperature=TEMPERATURE),
        PREDICT_FEATURES: functools.partial(predict, taps),
        BUILD_FEATURES: functools.partial(build, "features", features=layers),
    }


def interleaved(kinds, rounds):
    """By name the seconds of each round, and the CPU seconds of all threads, after one round that does not count."""
    for run in kinds.values():
        run()
    seconds, cpu_seconds = ({name: [] for name in kinds} for _ in range(2))
    for number in range(rounds):
        for name in np.random.default_rng(number).permutation(list(kinds)):
            start, cpu_start = time.perf_counter(), time.process_time()
            kinds[name]()
            seconds[name].append(time.perf_counter() - start)
            cpu_seconds[name].append(time.process_time() - cpu_start)
    return tuple({name: np.array(values) for name, values in by_name.items()} for by_name in (seconds, cpu_seconds))


def quartiles(ratios):
    """Median and quartiles, as text."""
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return f"{median:5.2f} ({low:.2f} to {high:.2f})"


def claim(name, ratios, bound):
    """One line: a claim, what was measured, and whether it is met."""
    is_met = np.median(ratios) <= bound
    print(f"  {name:<66} <= {bound:.2f}: {quartiles(ratios):<20} {'met' if is_met else 'MISSED'}")


def print_trainings(x, y, folder, rounds):
    """The table of an epoch of each kind, and claims 1 and 2."""
    seconds, cpu_seconds = interleaved(trainings(x, y, folder), rounds)
    print(
        f"\nOne epoch of {len(x)} samples, {rounds} rounds: seconds (median); ratio to the reference in the same round"
    )
    print(f"  {'':<34} {'seconds':>7}  {'ratio':<21} {'ratio of CPU time':<21} to")
    for name, values in seconds.items():
        reference = WIDE_ALONE if name.startswith("wide") else ALONE
        ratios = values / seconds[reference], cpu_seconds[name] / cpu_seconds[reference]
        columns = " ".join(f"{quartiles(ratio):<21}" for ratio in ratios)
        print(f"  {name:<34} {np.median(values):7.3f}  {columns} {reference}")
    print("\nClaims")
    for name in CACHED_KINDS:
        claim(f"{name} / {ALONE}", seconds[name] / seconds[ALONE], CACHED)
    for name, reference in LIVE_KINDS.items():
        ratios = seconds[name] / (seconds[reference] + seconds[PREDICT])
        if name == "Distiller, live":
            claim(f"{name} / (student + {PREDICT})", ratios, LIVE)
        else:
            print(f"  {f'{name} / (student + {PREDICT}), no claim':<66}          {quartiles(ratios)}")


def print_builds(x, folder, rounds):
    """The table of builds, claim 3, and the bytes on disk."""
    seconds, _ = interleaved(builds(x, folder), rounds)
    print(f"\nA teacher's outputs of {len(x)} samples, {rounds} rounds: seconds (median), and bytes a sample on disk")
    print(f"  {'':<34} {'seconds':>7}  {'all files':>9} {'outputs':>8} {'features':>9}")
    directories = dict(zip((BUILD_OUTPUTS, f"build of the top {TOP_K}", BUILD_FEATURES), SIZED, strict=True))
    for name, values in seconds.items():
        sizes = bytes_per_sample(folder / directories[name], len(x)) if name in directories else ""
        print(f"  {name:<34} {np.median(values):7.3f}  {sizes}".rstrip())
    print("\nClaims")
    claim(f"{BUILD_OUTPUTS} / {FIRST_PREDICT}", seconds[BUILD_OUTPUTS] / seconds[FIRST_PREDICT], BUILD)
    claim(f"{BUILD_FEATURES} / {PREDICT_FEATURES}", seconds[BUILD_FEATURES] / seconds[PREDICT_FEATURES], BUILD)
    again = quartiles(seconds[BUILD_OUTPUTS] / seconds[PREDICT_AGAIN])
    print(f"  {f'{BUILD_OUTPUTS} / {PREDICT_AGAIN}, no claim':<66}          {again}")


SIZED = ("outputs", "top_k", "features")


def bytes_per_sample(directory, samples):
    """Bytes a sample of all files, of the outputs and of the features, as text."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    groups = (
        files,
        [path for path in files if path.name.startswith("output_")],
        [path for path in files if path.name.startswith("feature_")],
    )
    sizes = [sum(path.stat().st_size for path in group) / samples for group in groups]
    return "{:9.1f} {:8.1f} {:9.1f}".format(*sizes)


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = command_line.build_parser("distillation cost", __doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--samples", type=int, default=12_800)
    parser.add_argument(
        "--quick", action="store_true", help="a minute or less, to try the program: not for its figures"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints all tables."""
    options = build_parser().parse_args(arguments)
    rounds, samples, quick = options.rounds, options.samples, options.quick
    start = time.perf_counter()
    (images, labels), _ = fashion_mnist()
    if quick:
        rounds, samples = 1, 3 * BATCH
    x, y = images[:samples].reshape(-1, *SHAPE), labels[:samples].astype("int32")
    print(f"Keras {keras.__version__} on {keras.backend.backend()}")
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        print_trainings(x, y, Path(folder), rounds)
    with tempfile.TemporaryDirectory() as folder:
        print_builds(x, Path(folder), rounds)
    print_memory(samples=256 if quick else SAMPLES, repetitions=1 if quick else REPETITIONS)
    print(f"\n{time.perf_counter() - start:.0f} s")
