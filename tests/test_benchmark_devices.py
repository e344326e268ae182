"""The comparison of devices: equal is equal, one step is one step, and a runner that cannot run says why."""

import sys

import numpy as np

from tests.benchmarks import devices
from tests.bundles import TESTDATA, copied, edit_manifest

A = np.array([[0.0, 1.0, 2.0], [4.0, 3.0, 0.0]], "float32")


def test_equal_values_are_equal():
    assert devices.compared([(A, 0.5)], [(A.copy(), 0.5)]) == (0, 6, 0.0, 0.0, 1.0)


def test_a_difference_counts_in_steps_and_in_the_largest_value():
    b = A.copy()
    b[1] = (3.0, 3.5, 0.0)
    assert devices.compared([(A, 0.5)], [(b, 0.5)]) == (2, 6, 1.0, 2.0, 0.5)
    assert devices.compared([(A, None), (A, 0.5)], [(b, None), (A, 0.5)]) == (2, 12, 1.0, None, 0.75)


def test_a_table_has_a_row_for_each_runner(tmp_path):
    bundle = copied(TESTDATA, tmp_path / "bundle")
    runners = {
        devices.FIRST: devices.PYTHON,
        "the same": devices.PYTHON,
        "reference": [*devices.PYTHON, "--kernels", "reference"],
        "none": [sys.executable, "-c", "import sys; print('this | cannot run', file=sys.stderr); sys.exit(2)"],
    }
    rows = [line.split("|")[1:-1] for line in devices.table_of("bars", bundle, runners, repeat=1)[4:-1]]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert list(cells) == list(runners)
    assert cells["the same"][:4] == ["yes", cells[devices.FIRST][1], "0 of 64", "1.0000"]
    assert cells["reference"][0] == "yes"
    assert "reference kernels" in cells["reference"][-1]
    assert cells["none"][:2] == ["-", "this / cannot run"]


def test_a_runner_that_is_not_within_the_tolerance_is_no(tmp_path):
    bundle = copied(TESTDATA, tmp_path / "bundle")
    edit_manifest(bundle, lambda manifest: manifest["tolerance"].update(max_error_lsb=0.01))
    (row,) = devices.table_of("bars", bundle, {devices.FIRST: devices.PYTHON}, repeat=1)[4:-1]
    assert row.split("|")[2].strip() == "**no**"
