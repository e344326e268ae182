"""The exporter: a program of its own that carries models from another backend over to TensorFlow.

    KERAS_BACKEND=tensorflow python _run_exporter.py JOB

JOB is a directory with `job.json` ({"signatures", "output_names", "modules", "batch_size", "recurrent"})
and a file `model_<signature number>.keras` for each signature. The result is JOB/saved_model.
"""

import importlib
import json
import sys
from pathlib import Path

import keras

from keras_notes.conversion.graph._deploy_graph import deploy_graph, save_graphs


def export(job: Path) -> None:
    """Loads the models of JOB and writes JOB/saved_model."""
    settings = json.loads((job / "job.json").read_text())
    for module in settings["modules"]:  # where custom layers are registered
        importlib.import_module(module)
    graphs = []
    for number, name in enumerate(settings["signatures"]):
        # Not in safe mode: the caller's own model, just saved by it.
        model = keras.saving.load_model(job / f"model_{number}.keras", compile=False, safe_mode=False)
        graphs.append(deploy_graph(model, name, output_names=tuple(settings["output_names"][name])))
    arguments = {name: settings[name] for name in ("batch_size", "recurrent")}
    save_graphs(tuple(graphs), job / "saved_model", **arguments)


if __name__ == "__main__":
    sys.path[:0] = json.loads((Path(sys.argv[1]) / "job.json").read_text())["paths"]
    export(Path(sys.argv[1]))
