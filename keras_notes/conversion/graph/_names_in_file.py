"""The names that layers and operations have in a converted file: paths without the outermost models."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path as FilePath

import keras

from keras_notes._shared.keras_internals import is_keras_class, layers_of
from keras_notes._shared.models.layer_patterns import Path
from keras_notes.conversion.graph._deploy_graph import DeployGraph
from keras_notes.conversion.graph._fused_lstm import is_fusible
from keras_notes.conversion.graph._operator_scopes import known_paths, operation_names_in, output_paths
from keras_notes.conversion.graph._recurrent_lowerings import recurrent_layers
from keras_notes.conversion.passes._name_tensors import LayerNames, path_in_file, place_of

__all__ = ["integer_forms", "layer_names", "layers_in", "missing_operations", "paths_in_file", "recurrent_paths"]


def layers_in(graphs: Sequence[DeployGraph]) -> Iterator[keras.Layer]:
    """Yields each layer of the models of some graphs, nested ones too."""
    for graph in graphs:
        yield from layers_of(graph.model, include_self=False)


def layer_names(graphs: Sequence[DeployGraph]) -> LayerNames:
    """Returns the names by which the tensors of a file are named."""
    layers, models = list(layers_in(graphs)), _model_names(graphs)
    outputs = {
        graph.signature: {
            name: path_in_file(path, models)
            for name, path in zip(graph.output_names, output_paths(graph.model), strict=True)
        }
        for graph in graphs
    }
    return LayerNames(
        models=models,
        layers={layer.name for layer in layers},
        operations=operation_names_in([*(graph.model for graph in graphs), *layers]),
        opened={layer.name for layer in layers if not is_keras_class(type(layer))},
        outputs=outputs,
    )


def paths_in_file(graphs: Sequence[DeployGraph]) -> list[Path]:
    """Returns the paths of the layers and operations of some graphs, as far as they are known without a trace."""
    paths = [path for graph in graphs for path in known_paths(graph.model)]
    return list(dict.fromkeys(path_in_file(path, _model_names(graphs)) for path in paths))


def recurrent_paths(graphs: Sequence[DeployGraph]) -> dict[int, list[Path]]:
    """Returns the paths of each recurrent layer, by its `id`."""
    paths: dict[int, list[Path]] = defaultdict(list)
    for graph in graphs:
        for path, layer in recurrent_layers(graph.model).items():
            paths[id(layer)].append(path_in_file(path, _model_names(graphs)))
    return paths


def missing_operations(report: FilePath, graphs: Sequence[DeployGraph]) -> list[tuple[str, str]]:
    """Returns the operations that the converter reported as missing, each with the path of its layer.

    Args:
        report: The file of _run_converter.py, which need not exist.
        graphs: The deploy graphs.
    """
    names = layer_names(graphs)
    lacking = json.loads(report.read_text()) if report.exists() else []
    return [(operation, "/".join(place_of(places, names))) for operation, places in lacking]


def integer_forms(graphs: Sequence[DeployGraph], *, fused: bool) -> list[str]:
    """Returns the forms in which all recurrent layers of some graphs compute in integers, the smallest first.

    Args:
        graphs: The deploy graphs.
        fused: Whether the recipe has the fused operator.
    """
    recurrent = [layer for graph in graphs for layer in recurrent_layers(graph.model).values()]
    masks = any(
        isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False) for layer in layers_in(graphs)
    )
    return ["fused", "unrolled"] if fused and not masks and all(map(is_fusible, recurrent)) else ["unrolled"]


def _model_names(graphs: Sequence[DeployGraph]) -> set[str]:
    return {graph.model.name for graph in graphs}
