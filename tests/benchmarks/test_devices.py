"""The comparison of devices: equal is equal, one step is one step, and a runner that cannot run says why."""

import sys

import numpy as np
import pytest

from benchmarks.devices import table
from tests.support.bundles import TESTDATA, copied, edit_manifest

A = np.array([[0.0, 1.0, 2.0], [4.0, 3.0, 0.0]], "float32")


def output(values, scale=0.5):
    return table.Output(values, A, scale)


def test_equal_values_are_equal():
    assert table.compare_outputs([output(A)], [output(A.copy())]) == (0, 6, "0.00 LSB", 1.0)


def test_a_difference_counts_in_steps_or_in_the_largest_value():
    b = A.copy()
    b[1] = (3.0, 3.5, 0.0)
    assert table.compare_outputs([output(A)], [output(b)]) == (2, 6, "2.00 LSB", 0.5)
    two = table.compare_outputs([output(A, None), output(A)], [output(b, None), output(A)])
    assert two == (2, 12, "2.5e-01 and 0.00 LSB", 0.75)


def test_a_table_has_a_row_for_each_runner(tmp_path):
    bundle = copied(TESTDATA, tmp_path / "bundle")
    runners = {
        table.FIRST: table.PYTHON,
        "the same": table.PYTHON,
        "reference": [*table.PYTHON, "--kernels", "reference"],
        "none": [sys.executable, "-c", "import sys; print('this | cannot run', file=sys.stderr); sys.exit(2)"],
    }
    rows = [line.split("|")[1:-1] for line in table.table_of("bars", bundle, runners, repeat=1)[4:-1]]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert list(cells) == list(runners)
    assert cells["the same"][:4] == ["yes", cells[table.FIRST][1], "0 of 64", "1.0000"]
    assert cells["reference"][0] == "yes"
    assert "reference kernels" in cells["reference"][-1]
    assert cells["none"][:2] == ["-", "this / cannot run"]


def test_a_runner_that_is_not_within_the_tolerance_is_no(tmp_path):
    bundle = copied(TESTDATA, tmp_path / "bundle")
    edit_manifest(bundle, lambda manifest: manifest["tolerance"].update(max_error_lsb=0.01))
    (row,) = table.table_of("bars", bundle, {table.FIRST: table.PYTHON}, repeat=1)[4:-1]
    assert row.split("|")[2].strip() == "**no**"


def test_a_part_of_the_tables_does_not_replace_them_all(capsys):
    with pytest.raises(SystemExit, match="2"):
        table.main(["--write", "--only", "digits*"])
    assert "--write must be given without --only" in capsys.readouterr().err
