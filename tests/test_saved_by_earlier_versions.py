"""Files that users have: each opens in today's package and gives what it gave when it was written."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_notes as kn
from keras_notes.errors import BundleError, VerificationError
from tests.support import make_saved
from tests.support.bundles import rewrite_golden
from tests.support.make_saved import BUNDLES, CACHE, CHECKPOINT, RANGES, SAVED
from tests.support.records import Record

MODELS = sorted(path.stem for path in SAVED.glob("*.keras"))
ON_CACHE = "distiller_on_cache"
CONFIG, WEIGHTS = "config.json", "model.weights.h5"

WRITTEN_IN = json.loads((SAVED / make_saved.ENVIRONMENT_FILE).read_text())
# With the libraries and the processor that wrote the files the program is the same one, to the last bit.
IS_SAME_PROGRAM = make_saved.environment() == WRITTEN_IN
# Other libraries and processors sum in another order; a block of a Transformer is a dozen sums deep.
ROUNDING = 1e-4
# A sum that rounds otherwise may move a value on the integer grid by a step or two; an output has 255 of them.
GRID_STEPS = 2 / 255
# Adam divides by the root of a mean of squares, and so enlarges the rounding of a gradient that is almost zero.
TRAINING_ROUNDING = 1e-3

REGISTRY = """
import importlib, json, pkgutil
import keras, keras_notes
for module in pkgutil.walk_packages(keras_notes.__path__, "keras_notes."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(json.dumps([name for name in keras.saving.get_custom_objects() if name.startswith("keras_notes>")]))
"""


def opened(path):
    return keras.saving.load_model(path, safe_mode=True)


def config_of(path):
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read(CONFIG))


def own_objects(config):
    """The configs of the objects of this package in a config, those within others too."""
    values = config if isinstance(config, list) else list(config.values()) if isinstance(config, dict) else []
    objects = [item for value in values for item in own_objects(value)]
    is_own = isinstance(config, dict) and registered_name(config).startswith("keras_notes>")
    return [config, *objects] if is_own else objects


def registered_name(item):
    """The registered name of an object; that of a function is its config."""
    name = str(item.get("registered_name"))
    return str(item["config"]) if name == "function" else name


def registered_names(config):
    """The registered names of this package in a config."""
    return {registered_name(item) for item in own_objects(config)}


def own_settings(config):
    """Every object of this package in a config with its plain settings, in order."""
    return sorted(
        json.dumps(
            [item["registered_name"], {k: v for k, v in item["config"].items() if is_setting(k, v)}], sort_keys=True
        )
        for item in own_objects(config)
        if isinstance(item["config"], dict)  # a function has a name only
    )


def is_setting(name, value):
    """Whether an entry of a config is plain: no object, no path of a folder, no state that Keras gives a layer."""
    values = value if isinstance(value, list) else [value]
    return name not in ("directory", "trainable") and not any(isinstance(item, dict) for item in values)


def assert_gives(outputs, expected, rounding=ROUNDING):
    """Equal arrays by name: to the last bit from the same program, else but for rounding."""
    assert sorted(outputs) == sorted(expected)
    for name, array in expected.items():
        if IS_SAME_PROGRAM:
            np.testing.assert_array_equal(outputs[name], array, err_msg=name)
        else:
            np.testing.assert_allclose(outputs[name], array, rtol=rounding, atol=rounding, err_msg=name)


def assert_opens_and_gives_the_same(path, record):
    model = opened(path)
    rounding = ROUNDING
    if "CompressedModel" in type(model).__name__ and model.scheme is not None:
        rounding = GRID_STEPS * float(np.ptp(record.outputs["prediction."]))
    assert_gives(make_saved.outputs_of(model, record), record.outputs, rounding)


def record_of(name):
    return Record.read(SAVED / f"{name}.npz")


def flip_a_byte(path, place=-1):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


# Models


@pytest.mark.any_backend
@pytest.mark.parametrize("name", [name for name in MODELS if name != ON_CACHE])
def test_a_saved_model_opens_and_gives_the_same_numbers(name):
    assert_opens_and_gives_the_same(SAVED / f"{name}.keras", record_of(name))


@pytest.mark.any_backend
@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_keeps_its_classes_and_their_settings(name, monkeypatch):
    monkeypatch.chdir(SAVED)
    path = SAVED / f"{name}.keras"
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(opened(path))))
    assert own_settings(config) == own_settings(config_of(path))


@pytest.mark.any_backend
def test_a_changed_weight_is_noticed(tmp_path):
    path = Path(shutil.copy(SAVED / "distiller.keras", tmp_path))
    kernel = opened(path).student.get_layer("hidden").get_weights()[0].tobytes()
    changed = (np.frombuffer(kernel, "float32") * np.float32(1.01)).tobytes()
    make_saved.rewrite_member(path, WEIGHTS, lambda content: content.replace(kernel, changed))
    with pytest.raises(AssertionError, match=r"Arrays are not equal|Not equal to tolerance"):
        assert_opens_and_gives_the_same(path, record_of("distiller"))


@pytest.mark.any_backend
def test_a_changed_setting_is_noticed(tmp_path):
    path = Path(shutil.copy(SAVED / "losses.keras", tmp_path))
    make_saved.rewrite_member(path, CONFIG, lambda content: content.replace(b'"gamma": 1.5', b'"gamma": 1.6'))
    with pytest.raises(AssertionError, match=r"log\.(focal_)?loss"):
        assert_opens_and_gives_the_same(path, record_of("losses"))


@pytest.mark.any_backend
def test_a_class_of_another_name_is_noticed(tmp_path):
    path = Path(shutil.copy(SAVED / "layers.keras", tmp_path))
    make_saved.rewrite_member(path, CONFIG, lambda content: content.replace(b"OneHot", b"HotOne"))
    with pytest.raises(TypeError, match="HotOne"):
        opened(path)


@pytest.mark.any_backend
def test_the_ranges_of_activations_are_restored_from_their_config():
    config = json.loads((SAVED / RANGES).read_text())
    ranges = keras.saving.deserialize_keras_object(config, safe_mode=True)
    again = json.loads(json.dumps(keras.saving.serialize_keras_object(ranges)))
    assert own_settings(again) == own_settings(config)


def test_every_registered_class_is_in_a_saved_file():
    result = subprocess.run([sys.executable, "-c", REGISTRY], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    configs = [*(config_of(SAVED / f"{name}.keras") for name in MODELS), json.loads((SAVED / RANGES).read_text())]
    saved, registered = registered_names(configs), set(json.loads(result.stdout.splitlines()[-1]))
    assert saved - registered == set(), "Files of users name these classes: register them under these names again."
    assert registered - saved == set(), "Add these classes to tests/support/make_saved.py, and run it."


def test_the_collector_of_registered_names_looks_everywhere():
    config = {"layers": [{"registered_name": "keras_notes>A", "config": {"x": {"registered_name": "keras_notes>B"}}}]}
    function = {"registered_name": "function", "config": "keras_notes>f"}
    names = registered_names([config, {"registered_name": "Other>C"}, function, None])
    assert names == {"keras_notes>A", "keras_notes>B", "keras_notes>f"}


def test_the_collector_of_settings_tells_them_apart():
    config = config_of(SAVED / "losses.keras")
    changed = json.loads(json.dumps(config).replace('"gamma": 1.5', '"gamma": 1.6'))
    registered = [name for name in kn.losses.__all__ if hasattr(getattr(kn.losses, name), "from_config")]
    base_classes = {"TeacherLoss", "WholeSampleLoss"}
    assert len(own_settings(config)) == len(set(registered) - base_classes)
    assert own_settings(changed) != own_settings(config)


# Teacher caches


@pytest.mark.any_backend
def test_a_saved_cache_opens_for_its_teacher_and_holds_its_answers():
    record = record_of(CACHE)
    cache = kn.TeacherCache.open(SAVED / CACHE)
    (answers,) = cache.lookup(record.inputs)["outputs"]
    # The record is of one batch and the cache of shards of another size, which may round otherwise.
    np.testing.assert_allclose(answers[0], record.outputs, rtol=ROUNDING, atol=ROUNDING)
    teacher = opened(SAVED / "teacher.keras")
    cache.check_teacher(teacher)
    cache.verify(teacher, record.inputs)


@pytest.mark.any_backend
def test_a_distiller_on_a_saved_cache_opens_and_gives_the_same_losses(monkeypatch):
    monkeypatch.chdir(SAVED)
    distiller = opened(SAVED / f"{ON_CACHE}.keras")
    assert_gives(make_saved.joined_logs(distiller, distiller.teacher), record_of(ON_CACHE).outputs)


@pytest.mark.any_backend
def test_a_cache_with_a_changed_byte_or_for_another_teacher_is_refused(tmp_path):
    directory = Path(shutil.copytree(SAVED / CACHE, tmp_path / CACHE))
    teacher = opened(SAVED / "teacher.keras")
    teacher.set_weights([1.01 * weight for weight in teacher.get_weights()])
    with pytest.raises(ValueError, match="The teacher must be the one"):
        kn.TeacherCache.open(directory).check_teacher(teacher)
    for path in sorted(directory.rglob("*.npy")):
        flip_a_byte(path)
        with pytest.raises(ValueError, match="Received"):
            kn.TeacherCache.open(directory)
        flip_a_byte(path)
    kn.TeacherCache.open(directory)


# Checkpoints


def resumed(directory):
    """A new run of which the saved state is restored, with its data and the epochs that are behind it."""
    distiller, batches = make_saved.run_of(opened(SAVED / "teacher.keras"))
    epochs = kn.distillation.Checkpoint(directory).restore(distiller)
    return distiller, batches, epochs


def assert_state(distiller, record, rounding=0.0):
    for array, expected in zip(make_saved.state_of(distiller), record.inputs, strict=True):
        np.testing.assert_allclose(array, expected, rtol=rounding, atol=rounding)


@pytest.mark.any_backend
def test_a_saved_checkpoint_restores_the_state_to_the_last_bit():
    distiller, _, epochs = resumed(SAVED / CHECKPOINT)
    assert epochs == make_saved.EPOCHS_BEFORE
    assert_state(distiller, record_of("state_before"))


def test_a_run_goes_on_from_a_saved_checkpoint_as_if_unbroken():
    distiller, batches, epochs = resumed(SAVED / CHECKPOINT)
    settings = {"initial_epoch": epochs, "epochs": make_saved.EPOCHS_AFTER, "verbose": 0}
    distiller.fit(batches, callbacks=[batches.epoch_callback()], **settings)
    assert_state(distiller, record_of("state_after"), 0.0 if IS_SAME_PROGRAM else TRAINING_ROUNDING)
    with pytest.raises(AssertionError):
        assert_state(distiller, record_of("state_before"), TRAINING_ROUNDING)


@pytest.mark.any_backend
def test_a_checkpoint_with_a_changed_byte_is_refused(tmp_path):
    directory = Path(shutil.copytree(SAVED / CHECKPOINT, tmp_path / CHECKPOINT))
    (path,) = directory.iterdir()
    # The last byte of the first array stands before the header of the second one in the zip file.
    flip_a_byte(path, path.read_bytes().index(b"PK\x03\x04", 1) - 1)
    with pytest.raises(ValueError, match="must be a whole checkpoint"):
        resumed(directory)


# Bundles


@pytest.mark.parametrize("name", BUNDLES)
def test_a_saved_bundle_is_verified_and_gives_what_its_model_gave(name):
    record, bundle = record_of(name), kn.bundle.open_bundle(SAVED / name)
    assert kn.verify(bundle).ok
    inputs, outputs = bundle.golden(bundle.manifest.signatures[0])
    np.testing.assert_array_equal(next(iter(inputs.values())), record.inputs)
    np.testing.assert_allclose(next(iter(outputs.values())), record.outputs["prediction."], rtol=ROUNDING, atol=1e-6)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_with_a_changed_byte_or_a_wrong_answer_is_refused(name, tmp_path):
    directory = Path(shutil.copytree(SAVED / name, tmp_path / name))
    flip_a_byte(directory / kn.bundle.MODEL_FILE)
    with pytest.raises(BundleError, match="is damaged"):
        kn.verify(directory)
    flip_a_byte(directory / kn.bundle.MODEL_FILE)
    assert kn.verify(directory).ok
    (golden,) = directory.glob("golden/*.output.*")
    rewrite_golden(directory, lambda values: values + 1.0, f"golden/{golden.name}")
    with pytest.raises(VerificationError):
        kn.verify(directory)
