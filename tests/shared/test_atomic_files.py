"""Files and folders that appear complete or not at all."""

import os

import pytest

from keras_notes._shared.atomic_files import hidden_beside, move_directory, write_atomically, write_synced
from tests.support.bundles import contents, failing_after


def test_a_file_replaces_the_old_one_when_the_block_ends(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with write_atomically(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert contents(tmp_path) == {"file": b"new"}


def test_an_error_in_the_block_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match="bytes-like"), write_atomically(path) as file:
        file.writelines([b"new", "text"])
    assert contents(tmp_path) == {"file": b"old"}


def test_a_full_disk_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    raises = pytest.raises(OSError, match="No space left")
    with failing_after(monkeypatch, os, "fsync", 0), raises, write_atomically(path) as file:
        file.write(b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    (tmp_path / "mine").write_bytes(b"years of work")
    (tmp_path / "file.new").symlink_to(tmp_path / "mine")
    with write_atomically(tmp_path / "file", tmp_path / "file.new") as file:
        file.write(b"new")
    assert contents(tmp_path) == {"file": b"new", "mine": b"years of work"}


def test_every_write_is_synced_and_overwrites_nothing(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_synced(tmp_path / "a", b"1")
    with write_atomically(tmp_path / "b") as file:
        file.write(b"2")
    assert len(synced) == 2
    with pytest.raises(FileExistsError):
        write_synced(tmp_path / "a", b"3")
    assert contents(tmp_path) == {"a": b"1", "b": b"2"}


def test_hidden_names_differ_and_are_in_the_same_folder(tmp_path):
    first, second = (hidden_beside(tmp_path / "file") for _ in range(2))
    assert first != second
    assert {path.parent for path in (first, second)} == {tmp_path}
    assert first.name.startswith(".file.")


@pytest.mark.parametrize("calls", [0, 1, None])
def test_a_folder_is_replaced_or_left_as_it_was(tmp_path, monkeypatch, calls):
    source, target = tmp_path / "source", tmp_path / "target"
    for path in (source, target):
        path.mkdir()
        (path / "name").write_text(path.name)
    if calls is None:
        move_directory(source, target)
        assert contents(tmp_path) == {"target/name": b"source"}
        return
    with failing_after(monkeypatch, type(source), "rename", calls), pytest.raises(OSError, match="No space left"):
        move_directory(source, target)
    assert contents(tmp_path) == {"source/name": b"source", "target/name": b"target"}
