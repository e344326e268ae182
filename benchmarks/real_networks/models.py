"""The networks of the benchmark by name: `NETWORKS[name]()` is a `Network`, with calibration and test data."""

from __future__ import annotations

import functools
from collections.abc import Callable

from benchmarks.real_networks import pretrained, untrained
from benchmarks.real_networks.network import Network

__all__ = ["DOWNLOADED", "NETWORKS", "Network"]

# These need a download, once.
DOWNLOADED: dict[str, Callable[[], Network]] = {
    "fer": pretrained.build_emotions,
    "p_net": functools.partial(pretrained.build_detector, pretrained.build_proposal_network, "pnet", 48),
    "r_net": functools.partial(pretrained.build_detector, pretrained.build_refinement_network, "rnet", 24),
    "o_net": functools.partial(pretrained.build_detector, pretrained.build_output_network, "onet", 48),
    "russtress": pretrained.build_stress,
}
NETWORKS: dict[str, Callable[[], Network]] = {
    **DOWNLOADED,
    "mobilenet_v2": functools.partial(untrained.build_application, "mobilenet_v2"),
    "efficientnet_b0": functools.partial(untrained.build_application, "efficientnet_b0"),
    "nasnet_mobile": functools.partial(untrained.build_application, "nasnet_mobile", 64),
    "resnet50": functools.partial(untrained.build_application, "resnet50", 64),
    "segmentation": untrained.build_segmentation,
    "single_shot_detector": untrained.build_single_shot_detector,
    **{f"{name}_settled": functools.partial(untrained.build_settled, name) for name in untrained.SETTLED},
}
