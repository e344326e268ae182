"""Makes tflite/testdata/bars_static_int8, the bundle that every runner is tested with.

python -m tests.support.make_testdata

Seeded, so that it gives the same bundle on the same machine. Its metrics state what each kernel set gave here.
"""

from __future__ import annotations

import keras_notes as kn
from keras_notes._litert.runtime import KERNELS
from tests.support.bundles import LABELS, TESTDATA, bars, trained_net

SEED = 7
TEST_SAMPLES, TEST_SEED = 500, 70


def make_testdata() -> kn.Bundle:
    """Trains, converts, measures on each kernel set, and replaces the bundle."""
    x, y = bars(TEST_SAMPLES, TEST_SEED)
    bundle = kn.convert(
        trained_net(SEED),
        TESTDATA,
        "static_int8",
        calibration=bars(200, SEED)[0],
        golden=bars(16, SEED + 1)[0],
        labels=list(LABELS),
        preprocessing="An image of 8x8 pixels; 0 is the background, 1 is the figure.",
        overwrite=TESTDATA.exists(),
    )
    for kernels in KERNELS:
        report = kn.verify(bundle, x, y, kernels=kernels)
        error_lsb = max(output.max_error_lsb for output in report.outputs)
        bundle = bundle.with_metrics({f"accuracy_{kernels}": report.accuracy, f"max_error_lsb_{kernels}": error_lsb})
    return bundle


if __name__ == "__main__":
    print(make_testdata().manifest.metrics)
