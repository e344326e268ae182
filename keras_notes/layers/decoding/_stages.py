"""The stages of decoding as layers without state of their own: dicts of tensors in and out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_notes._shared.types import Config, Tensor, Tree
from keras_notes.layers._cache import Cache
from keras_notes.layers._inputs import Index
from keras_notes.layers._transformer import Transformer

__all__ = ["ArraySpec", "DecodeStep", "Encode", "Prefill", "name_caches", "state_specs"]


class ArraySpec(NamedTuple):
    """Shape and type of an input."""

    shape: tuple[int, ...]
    dtype: str


def name_caches(prefix: str, caches: tuple[Cache, ...], suffix: str = "") -> dict[str, Tensor]:
    """Returns keys and values by name, in order: "memory_0_keys", "memory_0_values", "memory_1_keys", ..."""
    return {
        f"{prefix}_{number}_{part}{suffix}": array
        for number, cache in enumerate(caches)
        for part, array in zip(("keys", "values"), cache, strict=True)
    }


def state_specs(prefix: str, caches: tuple[Cache, ...]) -> dict[str, ArraySpec]:
    """Returns shapes, for a batch of one, and types of keys and values by name."""
    return {
        name: ArraySpec((1, *array.shape[1:]), keras.backend.standardize_dtype(array.dtype))
        for name, array in name_caches(prefix, caches).items()
    }


class _Stage(keras.Layer):
    """Base class of a stage: a layer that contains a Transformer."""

    def __init__(self, transformer: Transformer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.transformer = transformer
        self.built = True

    def _caches_of(self, prefix: str, inputs: Mapping[str, Tensor]) -> tuple[Cache, ...]:
        blocks = range(len(self.transformer.decoder_blocks))
        return tuple((inputs[f"{prefix}_{i}_keys"], inputs[f"{prefix}_{i}_values"]) for i in blocks)

    def compute_output_spec(self, *args: Tree, **kwargs: Tree) -> Tree:
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_config(self) -> Config:
        return {**super().get_config(), "transformer": keras.saving.serialize_keras_object(self.transformer)}

    @classmethod
    def from_config(cls, config: Config) -> _Stage:
        return cls(**{**config, "transformer": keras.saving.deserialize_keras_object(config["transformer"])})


@keras.saving.register_keras_serializable(package="keras_notes")
class Encode(_Stage):
    """The stage that encodes a source to the caches of its memory, which all steps of decoding attend to."""

    def call(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        source_ids = inputs["source_ids"]
        memory = self.transformer.memory_caches(self.transformer.encode(source_ids, training=False))
        mask = ops.cast(self.transformer.source_mask(source_ids), "int32")
        return {**name_caches("memory", memory), "source_mask": mask}


class _WithCaches(_Stage):
    """Base class of a stage that writes into caches of `target_length` positions."""

    def __init__(self, transformer: Transformer, target_length: int, **kwargs: Any) -> None:
        super().__init__(transformer, **kwargs)
        self.target_length = target_length

    def empty_caches(self, batch_size: int = 1) -> tuple[Cache, ...]:
        """Returns the caches for the first step."""
        return keras.tree.map_structure(
            lambda cache: cache[:, :, : self.target_length], self.transformer.start_caches(batch_size)
        )

    def get_config(self) -> Config:
        return {**super().get_config(), "target_length": self.target_length}

    def _step(
        self, ids: Tensor, caches: tuple[Cache, ...], position: Index, inputs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        memory, mask = self._caches_of("memory", inputs), ops.cast(inputs["source_mask"], "bool")
        logits, caches = self.transformer.step(ids, caches, memory, position, mask)
        return {"logits": logits, **name_caches("cache", caches, "_next")}


@keras.saving.register_keras_serializable(package="keras_notes")
class Prefill(_WithCaches):
    """The stage that decodes the first positions of the target at once."""

    def call(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._step(inputs["prompt_ids"], self.empty_caches(), 0, inputs)


@keras.saving.register_keras_serializable(package="keras_notes")
class DecodeStep(_WithCaches):
    """The stage that decodes one further position of the target."""

    def call(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = self._step(inputs["target_ids"], self._caches_of("cache", inputs), inputs["position"][0], inputs)
        return {**outputs, "logits": outputs["logits"][:, 0]}
