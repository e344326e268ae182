"""A file in memory: its bytes follow its objects, and copies are independent."""

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
