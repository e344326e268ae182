"""Writes tests/support/saved: files as users have them, which every later version must open.

python -m tests.support.make_saved

Each model has beside it its inputs, targets and outputs as .npz; environment.json says what wrote them. Run it on the
TensorFlow backend, and only to add a class or a format: the files stand for those that users have, so that a change
of the package that no longer opens them is a defect of the change.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import keras_notes as kn
from keras_notes.compression import PolynomialSparsity, cluster, prune, quantize_aware
from tests.support.records import Record, named

SAVED = Path(__file__).resolve().parent / "saved"
ENVIRONMENT_FILE = "environment.json"
LIBRARIES = ("keras", "tensorflow", "numpy", "ai-edge-litert", "ai-edge-quantizer")
SEED, SAMPLES, CLASSES, POSITIONS, WIDTH = 11, 12, 4, 5, 6
CACHE, CHECKPOINT, RANGES = "teacher_cache", "checkpoint", "ranges.json"
EPOCHS_BEFORE, EPOCHS_AFTER = 2, 4
BUNDLES = ("bundle_float32", "bundle_static_int8")
SETTINGS: dict[str, Any] = {"batch_size": SAMPLES, "verbose": 0}


def normal(*shape: int, seed: int = SEED) -> np.ndarray:
    """Normal numbers in float32."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def class_ids(seed: int = SEED) -> np.ndarray:
    """A class id for each sample."""
    return np.random.default_rng(seed).integers(0, CLASSES, SAMPLES)


def crossentropy() -> keras.losses.Loss:
    """The loss on class ids."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def outputs_of(model: keras.Model, record: Record) -> dict[str, np.ndarray]:
    """A model's predictions, and its losses where there are targets."""
    predictions = model.predict(record.inputs, **SETTINGS)
    arrays = {f"prediction.{name}": array for name, array in named(predictions).items()}
    if record.targets is not None:
        logs = model.evaluate(record.inputs, record.targets, return_dict=True, **SETTINGS)
        arrays.update({f"log.{name}": np.float32(value) for name, value in logs.items()})
    return arrays


def joined(cache: kn.TeacherCache) -> keras.utils.PyDataset:
    """The samples that a cache holds, with what the teacher said of them."""
    return cache.join((normal(SAMPLES, WIDTH), class_ids()), batch_size=SAMPLES, shuffle=False)


def joined_logs(distiller: keras.Model, cache: kn.TeacherCache) -> dict[str, np.ndarray]:
    """The losses of a distiller on what a cache holds."""
    logs = distiller.evaluate(joined(cache), return_dict=True, verbose=0)
    return {f"log.{name}": np.float32(value) for name, value in logs.items()}


# Models, each with the inputs and targets of its record


def all_layers() -> tuple[keras.Model, Record]:
    """Every layer but the Transformer, with an output each."""
    x, ids = keras.Input((POSITIONS, WIDTH), name="x"), keras.Input((POSITIONS,), dtype="int32", name="ids")
    encoder = kn.layers.TransformerEncoder(2, 9, activation="gelu", normalization="rms", name="encoder")
    encoded = encoder(x)
    block = kn.layers.TransformerEncoder(2, 7, name="block")
    block.build(x.shape)
    outputs = {
        "one_hot": kn.layers.OneHot(7, out_of_range="zero", name="one_hot")(ids),
        "waves": kn.layers.PositionalEncoding(POSITIONS, scale=0.5, name="waves")(x),
        "learned": kn.layers.PositionalEncoding(POSITIONS, learned=True, name="learned")(x),
        "lstm": kn.layers.LSTM(3, lowering="unrolled", return_sequences=True, go_backwards=True, name="lstm")(x),
        "attention": kn.layers.MultiHeadAttention(2, 4, num_key_value_heads=1, rotary=True, name="attention")(x, x),
        "encoder": encoded,
        "decoder": kn.layers.TransformerDecoder(2, 8, norm_first=True, activation="swiglu", name="decoder")(x, encoded),
        # A block's own layer, which models may hold by itself.
        "feed_forward": block.feed_forward(x),
    }
    ids_values = np.random.default_rng(SEED).integers(0, 9, (SAMPLES, POSITIONS)).astype("int32")
    inputs = {"x": normal(SAMPLES, POSITIONS, WIDTH), "ids": ids_values}
    return keras.Model({"x": x, "ids": ids}, outputs, name="all_layers"), Record(inputs)


def all_losses() -> tuple[keras.Model, Record]:
    """A model with an output for every loss."""
    losses = kn.losses
    on_classes = {
        "focal": losses.FocalLoss(1.5, [0.1, 0.2, 0.3, 0.4], from_logits=True, label_smoothing=0.1),
        "asymmetric": losses.AsymmetricLoss(0.5, 3.0, margin=0.1, from_logits=True),
        "distillation": losses.DistillationLoss(2.0, standardize=True),
        "jensen_shannon": losses.JensenShannonDistillationLoss(0.3, 2.0),
        "decoupled": losses.DecoupledDistillationLoss(0.5, 2.0, 3.0),
        "correlation": losses.CorrelationDistillationLoss(0.5, 2.0, 1.5),
    }
    on_features = {
        "hint": losses.HintLoss(normalize=True),
        "attention_transfer": losses.AttentionTransferLoss(3.0),
        "similarity_preserving": losses.SimilarityPreservingLoss(),
        "relational": losses.RelationalLoss(0.5, 1.0, angle_partners=8),
        "probabilistic_transfer": losses.ProbabilisticTransferLoss(),
        "attention_relation": losses.AttentionRelationLoss(2, temperature=2.0),
    }
    x = keras.Input((POSITIONS, WIDTH), name="x")
    flat = layers.Flatten()(x)
    outputs = {name: layers.Dense(CLASSES, name=name)(flat) for name in on_classes}
    outputs |= {name: layers.Dense(CLASSES, name=name)(x) for name in on_features}
    model = keras.Model(x, outputs, name="all_losses")
    model.compile("sgd", on_classes | on_features)
    targets = {name: normal(SAMPLES, CLASSES, seed=i) for i, name in enumerate(on_classes)}
    targets |= {name: normal(SAMPLES, POSITIONS, CLASSES, seed=20 + i) for i, name in enumerate(on_features)}
    targets["focal"] = class_ids()
    targets["asymmetric"] = (targets["asymmetric"] > 0.5).astype("float32")
    packed = losses.with_labels(targets["decoupled"], class_ids())
    targets["decoupled"] = np.asarray(keras.ops.convert_to_numpy(packed))
    return model, Record(normal(SAMPLES, POSITIONS, WIDTH), targets)


def transformer() -> kn.layers.Transformer:
    """A Transformer of 9 words to 8."""
    model = kn.layers.Transformer(
        9, 8, num_layers=1, width=8, num_heads=2, hidden_width=12, max_length=POSITIONS, norm_first=True, seed=SEED
    )
    model([np.ones((1, POSITIONS), "int32")] * 2)
    return model


def decoding() -> dict[str, tuple[keras.Model, Record]]:
    """A Transformer, and the stages that decode with it."""
    model = transformer()
    stages = kn.layers.decoding_models(model, POSITIONS, prompt_length=2)
    ids = np.random.default_rng(SEED).integers(1, 8, (2, 1, POSITIONS)).astype("int32")
    samples = kn.layers.decoding_samples(stages, ids[0], ids[1], steps=1)
    models = {"transformer": model, **stages}
    signatures = {"transformer": "serving_default"}
    return {name: (m, Record(samples[signatures.get(name, name)])) for name, m in models.items()}


def perceptron(width: int, name: str) -> keras.Model:
    """A network whose training has every kind of state."""
    hidden = [layers.Dense(width, "relu", name="hidden"), layers.BatchNormalization(), layers.Dropout(0.2, seed=3)]
    return keras.Sequential([keras.Input((WIDTH,)), *hidden, layers.Dense(CLASSES, name="logits")], name=name)


def lstm_teacher() -> keras.Model:
    """A teacher with a layer of this package in it, which the fingerprint of a cache or checkpoint names."""
    parts = [layers.Reshape((3, 2)), kn.layers.LSTM(5, name="hidden"), layers.Dense(CLASSES)]
    return keras.Sequential([keras.Input((WIDTH,)), *parts], name="teacher")


def distiller_of(teacher: Any) -> kn.Distiller:
    """A compiled distiller with a schedule, and a connector from width 3 to the teacher's 5."""
    match = kn.FeatureMatch("hidden", "hidden", kn.losses.HintLoss(), weight=0.5)
    model = kn.Distiller(
        teacher,
        perceptron(3, "student"),
        kn.losses.DistillationLoss(3.0),
        0.7,
        student_loss_weight=0.3,
        features=match,
        temperature=keras.optimizers.schedules.PolynomialDecay(4.0, 20, 1.0),
    )
    model.compile(keras.optimizers.Adam(0.01), crossentropy())
    return model


def distillation() -> dict[str, tuple[keras.Model, Record]]:
    """A distiller after an epoch, its teacher, and students that train together."""
    x, y = normal(SAMPLES, WIDTH), class_ids()
    distiller = distiller_of(lstm_teacher())
    students = [perceptron(3, "small"), perceptron(6, "large")]
    mutual = kn.distillation.MutualDistiller(students, kn.losses.DistillationLoss(2.0), 0.4)
    mutual.compile(keras.optimizers.Adam(0.01), crossentropy())
    for model in (distiller, mutual):
        model.fit(x, y, batch_size=4, epochs=1, shuffle=False, verbose=0)
    return {
        "distiller": (distiller, Record(x, y)),
        "mutual": (mutual, Record(x, y)),
        "teacher": (distiller.teacher, Record(x)),
    }


def float_net() -> keras.Model:
    """The network that is compressed and converted."""
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(inputs))
    x = layers.Flatten()(layers.MaxPooling2D(name="pool")(layers.ReLU(name="relu")(x)))
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(x), name="net")


def images() -> np.ndarray:
    """Inputs of `float_net`."""
    return normal(SAMPLES, 8, 8, 1)


def compression() -> dict[str, tuple[keras.Model, Record]]:
    """A network that was pruned, clustered after that, and trained for integers; each after an epoch."""
    schedule = PolynomialSparsity(0.2, 0.5, begin_step=0, end_step=2, frequency=1)
    half = kn.compression.ConstantSparsity(0.5, begin_step=0, end_step=1)
    models = {
        "pruned": prune(float_net(), schedule),
        "clustered": cluster(prune(float_net(), half), 6, seed=SEED),
        "quantize_aware": quantize_aware(float_net(), calibration=images(), freeze_after=2),
    }
    for model in models.values():
        model.compile(keras.optimizers.Adam(0.01), crossentropy())
        model.fit(images(), class_ids(), batch_size=4, epochs=1, shuffle=False, verbose=0)
    return {name: (model, Record(images(), class_ids())) for name, model in models.items()}


def keras2() -> tuple[keras.Model, Record]:
    """A network with the hard sigmoid of Keras 2."""
    layer = layers.Dense(CLASSES, activation=kn.conversion.keras2_hard_sigmoid, name="gate")
    model = keras.Sequential([keras.Input((WIDTH,), name="x"), layer], name="keras2")
    model.compile("sgd", "mse")
    return model, Record(normal(SAMPLES, WIDTH), normal(SAMPLES, CLASSES))


def run_of(teacher: keras.Model) -> tuple[kn.Distiller, kn.distillation.SeededBatches]:
    """The run that the checkpoint is of, before its first epoch."""
    batches = kn.distillation.SeededBatches(normal(SAMPLES, WIDTH), class_ids(), batch_size=4, seed=SEED)
    return distiller_of(teacher), batches


def state_of(distiller: kn.Distiller) -> list[np.ndarray]:
    """The variables that the training of a distiller changes: all but those of its teacher."""
    frozen = {id(variable) for variable in distiller.teacher.variables}
    variables = [*distiller.trainable_variables, *distiller.non_trainable_variables]
    return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables if id(variable) not in frozen]


def environment() -> dict[str, Any]:
    """The versions and the machine, on which floating-point results depend to the last bit."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    except OSError:
        flags = []
    return {
        "keras_backend": keras.backend.backend(),
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1"),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "vector_instructions": sorted(flag for flag in flags if flag.startswith(("amx", "avx", "fma"))),
    }


# Writing


def make_saved(directory: Path = SAVED) -> None:
    """Replaces all saved files."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    keras.utils.set_random_seed(SEED)
    models = {"layers": all_layers(), "losses": all_losses(), **decoding(), **distillation(), **compression()}
    models["keras2"] = keras2()
    for name, (model, record) in models.items():
        model.save(directory / f"{name}.keras")
        Record(record.inputs, record.targets, outputs_of(model, record)).write(directory / f"{name}.npz")
    teacher, quantized = models["teacher"][0], models["quantize_aware"][0]
    ranges = keras.saving.serialize_keras_object(quantized.quantization.ranges)
    (directory / RANGES).write_text(json.dumps(ranges, indent=1, sort_keys=True) + "\n")
    _write_cache(directory, teacher)
    _write_checkpoint(directory / CHECKPOINT, teacher)
    bundles: dict[str, Any] = {"float32": float_net(), "static_int8": quantized}
    for name, (recipe, model) in zip(BUNDLES, bundles.items(), strict=True):
        kn.convert(model, directory / name, recipe, golden=images())
        Record(images(), outputs=outputs_of(model, Record(images()))).write(directory / f"{name}.npz")
    (directory / ENVIRONMENT_FILE).write_text(json.dumps(environment(), indent=1, sort_keys=True) + "\n")


def _write_cache(directory: Path, teacher: keras.Model) -> None:
    """Writes a teacher cache, and a distiller whose file names it."""
    x = normal(SAMPLES, WIDTH)
    cache = kn.TeacherCache.build(
        teacher, (x, class_ids()), directory / CACHE, features=["hidden"], dtype="float32", shard_size=8, verbose=0
    )
    said = np.asarray(keras.ops.convert_to_numpy(teacher(x, training=False)))
    Record(x, outputs=said).write(directory / f"{CACHE}.npz")
    distiller = distiller_of(cache)
    distiller.fit(joined(cache), verbose=0)
    path = directory / "distiller_on_cache.keras"
    distiller.save(path)
    Record(x, class_ids(), joined_logs(distiller, cache)).write(path.with_suffix(".npz"))
    # A file names the folder of its cache; here it is found from the folder of both, wherever that stands.
    folder = json.dumps(str((directory / CACHE).absolute())).encode()
    rewrite_member(path, "config.json", lambda content: content.replace(folder, json.dumps(CACHE).encode()))


def rewrite_member(path: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Replaces the content of one member of a zip file."""
    with zipfile.ZipFile(path) as file:
        members = {entry: file.read(entry) for entry in file.namelist()}
    members[name] = change(members[name])
    with zipfile.ZipFile(path, "w") as file:
        for entry, content in members.items():
            file.writestr(entry, content)


def _write_checkpoint(directory: Path, teacher: keras.Model) -> None:
    """Writes a checkpoint in the middle of a run, and the state at the end of it."""
    distiller, batches = run_of(teacher)
    checkpoint = kn.distillation.Checkpoint(directory)
    checkpoint.restore(distiller)
    distiller.fit(batches, epochs=EPOCHS_BEFORE, callbacks=[checkpoint], verbose=0)
    Record(state_of(distiller)).write(directory.with_name("state_before.npz"))
    settings: dict[str, Any] = {"initial_epoch": EPOCHS_BEFORE, "epochs": EPOCHS_AFTER, "verbose": 0}
    distiller.fit(batches, callbacks=[batches.epoch_callback()], **settings)
    Record(state_of(distiller)).write(directory.with_name("state_after.npz"))
    (newest,) = sorted(directory.iterdir())[-1:]
    for path in directory.iterdir():
        if path != newest:
            path.unlink()


if __name__ == "__main__":
    make_saved()
    size = sum(path.stat().st_size for path in SAVED.rglob("*") if path.is_file())
    print(f"{SAVED}: {size / 1024:.0f} KiB")
