"""A file in memory: its bytes follow its objects, and copies are independent."""

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from keras_notes._litert.reader import describe_model, read_tflite
from keras_notes.conversion.passes._model_file import ModelFile
from tests.support.bundles import MODEL_FILE, TESTDATA

TFLITE = (TESTDATA / MODEL_FILE).read_bytes()


def rename(model):
    """A pass that changes something."""
    model.subgraphs[0].tensors[0].name = b"renamed"
    return True


def look(model):
    """A pass that changes nothing."""
    return False


def test_every_pass_runs_and_any_change_counts():
    seen = []

    def note(name, changes):
        def run_pass(model):
            seen.append(name)
            return changes

        return run_pass

    file = ModelFile(TFLITE)
    assert file.run_passes([note("first", True), note("second", False)])
    assert not file.run_passes([note("third", False)])
    assert seen == ["first", "second", "third"]


def test_bytes_are_written_again_only_after_a_change(monkeypatch):
    file = ModelFile(TFLITE)
    before = file.to_bytes()
    file.run_passes([look])
    with monkeypatch.context() as context:
        context.setattr(flatbuffer_utils, "convert_object_to_bytearray", None)
        assert file.to_bytes() is before
    file.run_passes([rename])
    assert file.to_bytes() != before
    assert ModelFile(file.to_bytes()).model.subgraphs[0].tensors[0].name == b"renamed"


def test_a_second_reading_and_writing_changes_no_byte():
    written = ModelFile(TFLITE).to_bytes()
    assert ModelFile(written).to_bytes() == written


def channels(tflite):
    """The scales and zero points of each tensor, and the values of constants."""
    model = ModelFile(tflite).model
    grids = [t.quantization for t in model.subgraphs[0].tensors]
    return (
        [(grid.scale, grid.zeroPoint, grid.quantizedDimension) for grid in grids if grid and grid.scale is not None],
        [buffer.data for buffer in model.buffers if buffer.data is not None],
    )


def test_equal_vectors_are_written_once_and_read_as_before():
    file = ModelFile(TFLITE)
    before = file.to_bytes()
    file.share_vectors()
    shared = file.to_bytes()
    assert len(shared) < len(before) - 100
    np.testing.assert_equal(channels(shared), channels(before))
    assert describe_model(ModelFile(shared).model) == describe_model(ModelFile(before).model)
    assert ModelFile(shared).to_bytes() == before


def test_a_file_with_shared_vectors_computes_the_same():
    file = ModelFile(TFLITE)
    outputs = []
    for share in (lambda: None, file.share_vectors):
        share()
        interpreter = Interpreter(model_content=file.to_bytes())
        interpreter.allocate_tensors()
        source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        x = np.random.default_rng(0).random(source["shape"]).astype(source["dtype"])
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result["index"]))
    assert np.array_equal(*outputs)


def test_a_change_of_a_copy_leaves_the_original():
    file = ModelFile(TFLITE)
    before, duplicate = file.to_bytes(), file.copy()
    assert duplicate.to_bytes() == before
    duplicate.run_passes([rename])
    assert duplicate.to_bytes() != before
    assert ModelFile(before).to_bytes() == file.to_bytes() == before
    assert file.model.subgraphs[0].tensors[0].name != b"renamed"
    data = [(a.data, b.data) for a, b in zip(file.model.buffers, duplicate.model.buffers, strict=True)]
    assert all(original is shared for original, shared in data)


def test_the_description_of_the_objects_is_that_of_the_written_file(tmp_path):
    file = ModelFile(TFLITE)
    (tmp_path / MODEL_FILE).write_bytes(file.to_bytes())
    assert describe_model(file.model) == read_tflite(tmp_path / MODEL_FILE)
