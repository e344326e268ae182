"""The stages of decoding as layers with all their state in the open: dicts of tensors in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from keras_notes.layers._cache import Cache

__all__ = ["DecodeStep", "Encode", "Prefill", "named", "state_shapes"]


def named(kind: str, caches: tuple[Cache, ...], suffix: str = "") -> dict[str, Any]:
    """Keys and values by name, in order: "memory_0_keys", "memory_0_values", "memory_1_keys", ..."""
    return {
        f"{kind}_{number}_{part}{suffix}": array
        for number, cache in enumerate(caches)
        for part, array in zip(("keys", "values"), cache, strict=True)
    }


def state_shapes(kind: str, caches: tuple[Cache, ...]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shapes, for a batch of one, and types of keys and values by name."""
    return {
        name: ((1, *array.shape[1:]), keras.backend.standardize_dtype(array.dtype))
        for name, array in named(kind, caches).items()
    }


class _Stage(keras.Layer):
    """A layer around a Transformer, which is its own."""

    def __init__(self, transformer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.transformer = transformer
        self.built = True

    def _caches(self, kind: str, inputs: Mapping[str, Any]) -> tuple[Cache, ...]:
        blocks = range(len(self.transformer.decoder_blocks))
        return tuple((inputs[f"{kind}_{i}_keys"], inputs[f"{kind}_{i}_values"]) for i in blocks)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "transformer": keras.saving.serialize_keras_object(self.transformer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _Stage:
        return cls(**{**config, "transformer": keras.saving.deserialize_keras_object(config["transformer"])})


@keras.saving.register_keras_serializable(package="keras_notes")
class Encode(_Stage):
    """What all steps of decoding look at."""

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        source_ids = inputs["source_ids"]
        memory = self.transformer.memory_caches(self.transformer.encode(source_ids, training=False))
        mask = ops.cast(self.transformer.source_mask(source_ids), "int32")
        return {**named("memory", memory), "source_mask": mask}


class _WithCaches(_Stage):
    """A stage that writes into caches of `target_length` positions."""

    def __init__(self, transformer: Any, target_length: int, **kwargs: Any) -> None:
        super().__init__(transformer, **kwargs)
        self.target_length = target_length

    def empty_caches(self, batch_size: int = 1) -> tuple[Cache, ...]:
        """Those to begin with."""
        return keras.tree.map_structure(
            lambda cache: cache[:, :, : self.target_length], self.transformer.start_caches(batch_size)
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "target_length": self.target_length}

    def _step(self, ids: Any, caches: tuple[Cache, ...], position: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        memory, mask = self._caches("memory", inputs), ops.cast(inputs["source_mask"], "bool")
        logits, caches = self.transformer.step(ids, caches, memory, position, mask)
        return {"logits": logits, **named("cache", caches, "_next")}


@keras.saving.register_keras_serializable(package="keras_notes")
class Prefill(_WithCaches):
    """The first positions of the target at once."""

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return self._step(inputs["prompt_ids"], self.empty_caches(), 0, inputs)


@keras.saving.register_keras_serializable(package="keras_notes")
class DecodeStep(_WithCaches):
    """One further position of the target."""

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        found = self._step(inputs["target_ids"], self._caches("cache", inputs), inputs["position"][0], inputs)
        return {**found, "logits": found["logits"][:, 0]}
