"""Files of real networks, each labelled by its task: whether the file still does what the network does.

A file is good if on test data, which are never in the calibration, at least 90 % of its classes are those of the float
model and the root mean square error of each output is at most a third of the output's standard deviation. The labels
were set by that rule, from the figures of `python -m benchmarks real_networks`, and for the bad ones by what was done
to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.real_networks.models import NETWORKS, Network

__all__ = ["VERDICT_CASES", "VerdictCase"]


@dataclass(frozen=True)
class VerdictCase:
    """A file to judge.

    Attributes:
        network: The name of the network in `NETWORKS`.
        recipe: The number format.
        is_good: Whether the file does the network's task.
        fault: What is wrong with a bad one; "" for a good one.
        spoil: Function from the calibration data to those that the file is calibrated with.
    """

    network: str
    recipe: str
    is_good: bool
    fault: str = ""
    spoil: Callable[[np.ndarray], np.ndarray] = lambda calibration: calibration

    @property
    def name(self) -> str:
        """The name of the case."""
        return f"{self.network} {self.recipe}{f', {self.fault}' if self.fault else ''}"

    def build(self) -> Network:
        """Returns the network, with the calibration data of the case and the network's own test data."""
        network = NETWORKS[self.network]()
        return dataclasses.replace(network, calibration=self.spoil(network.calibration).astype("float32"))


def _pixels(calibration: np.ndarray) -> np.ndarray:
    return (calibration + 1) * 127.5


def _dim(calibration: np.ndarray) -> np.ndarray:
    return calibration * 0.05


def _blank(calibration: np.ndarray) -> np.ndarray:
    return np.zeros_like(calibration[:32])


def _bright(calibration: np.ndarray) -> np.ndarray:
    return calibration * 100


VERDICT_CASES = (
    VerdictCase("fer", "static_int8", True),
    VerdictCase("fer", "dynamic_int8", True),
    VerdictCase("p_net", "static_int8", True),
    VerdictCase("r_net", "static_int8", True),
    VerdictCase("o_net", "static_int8", True),
    VerdictCase("russtress", "dynamic_int8", True),
    VerdictCase("fer", "static_int8", False, "calibrated with pixels of 0 to 255", _pixels),
    VerdictCase("fer", "static_int8", False, "calibrated with blank images", _blank),
    VerdictCase("r_net", "static_int8", False, "calibrated with images of a twentieth of the contrast", _dim),
    VerdictCase("o_net", "static_int8", False, "calibrated with images a hundred times as bright", _bright),
    VerdictCase("mobilenet_v2_settled", "static_int8", False, "calibrated with blank images", _blank),
)
