"""Recurrent layers for the device: a loop over blocks of steps, or every step written out.

Keras's own code handles states, masks and the order of steps; the functions here replace the `inner_loop` of a layer.
Dimension letters of shapes: t steps, b batch, d features, n turns of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
from keras import ops

from keras_notes._shared.types import Tensor
from keras_notes.conversion.graph._recurrent_cells import RecurrentCell

__all__ = ["BLOCK", "make_inner_loop"]

# Steps in a turn of the loop. More of them save the loop's own cost, but each is operators in the file, and SPLIT runs
# on XNNPACK with four results at most.
BLOCK = 4
# A loop copies all outputs in each turn: the square of its turns in all. From so many turns on, they are those of an
# inner loop, whose few outputs are the ones that are copied often.
_MANY_TURNS, _INNER_TURNS = 64, range(8, 33)


def make_inner_loop(layer: keras.layers.RNN, cell_class: type[RecurrentCell], *, unrolled: bool) -> Callable:
    """Returns a replacement for the `inner_loop` of a recurrent layer.

    Args:
        layer: The trained layer.
        cell_class: The class of cells that compute what the layer's cell computes.
        unrolled: Whether every step is written out; else a WHILE holds `BLOCK` of them.
    """
    cell = cell_class(layer.cell)  # here, because within a traced function variables have no values

    def replacement(
        sequences: Tensor, initial_state: Sequence[Tensor], mask: Tensor, training: bool = False
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        walk = _Walk(layer, cell, sequences, mask[0] if isinstance(mask, (list, tuple)) else mask)
        return walk.run(list(initial_state), 0 if unrolled else walk.length // BLOCK)

    return replacement


@dataclass(frozen=True)
class _Position:
    """A point of a walk: the states, and the last output, which a mask can hold back."""

    states: list[Tensor]
    output: Tensor


class _Walk:
    """The walk of one layer through its sequences."""

    def __init__(self, layer: keras.layers.RNN, cell: RecurrentCell, sequences: Tensor, mask: Tensor | None) -> None:
        self._layer = layer
        self._cell = cell
        self.length = sequences.shape[1]
        self._batch = sequences.shape[0]
        rows_btd = ops.reshape(sequences, (-1, sequences.shape[2]))
        projected = cell.project(rows_btd)
        self._steps_tbd = self._by_step(ops.reshape(projected, (-1, self.length, projected.shape[-1])))
        self._mask_tb1 = None if mask is None else self._by_step(ops.cast(mask, "bool")[:, :, None])

    def run(self, states: list[Tensor], turns: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Returns the last output, all outputs in the order of the steps taken, and the states after them."""
        looped = turns * BLOCK if turns > 1 else 0
        at = _Position(states, ops.zeros_like(states[0]))
        outputs_tbd: list[Tensor] = []
        if looped:
            first = self.length - looped if self._layer.go_backwards else 0
            steps, masks = (
                None if all_steps is None else all_steps[first : first + looped]
                for all_steps in (self._steps_tbd, self._mask_tb1)
            )
            at, outputs_tbd = self._loop(at, steps, masks, self._spans(turns))
        at, written = self._unroll(at, *self._rest(looped))
        if not self._layer.return_sequences:
            return at.output, at.output[:, None], at.states
        if written:
            outputs_tbd.append(ops.stack(written))
        return at.output, self._by_sample(_concatenate(outputs_tbd)), at.states

    def _spans(self, turns: int) -> tuple[int, ...]:
        """Returns the number of steps in a turn, for the outer loop first if there is one."""
        inner = [count for count in _INNER_TURNS if turns % count == 0]
        if not self._layer.return_sequences or turns < _MANY_TURNS or not inner:
            return (BLOCK,)
        return (BLOCK * min(inner, key=lambda count: abs(count - 16)), BLOCK)

    def _by_step(self, tensor_btd: Tensor) -> Tensor:
        """Returns the tensor with steps first; for a batch of one, no operator has to move data."""
        if self._batch == 1:
            return ops.reshape(tensor_btd, (self.length, 1, tensor_btd.shape[-1]))
        return ops.transpose(tensor_btd, (1, 0, 2))

    def _by_sample(self, tensor_tbd: Tensor) -> Tensor:
        if self._batch == 1:
            return ops.reshape(tensor_tbd, (1, self.length, tensor_tbd.shape[-1]))
        return ops.transpose(tensor_tbd, (1, 0, 2))

    def _rest(self, looped: int) -> tuple[list[Tensor], list[Tensor] | None]:
        """Returns the steps that the loop has not taken; a backwards loop has taken the last ones."""
        rest = slice(None, self.length - looped) if self._layer.go_backwards else slice(looped, None)
        if looped == self.length:
            return [], None
        # One UNPACK: an index for each step would be an operator that XNNPACK does not run, between those that it does.
        masks = None if self._mask_tb1 is None else ops.unstack(self._mask_tb1[rest])
        return ops.unstack(self._steps_tbd[rest]), masks

    def _loop(
        self, at: _Position, steps_tbd: Tensor, mask_tb1: Tensor, spans: tuple[int, ...]
    ) -> tuple[_Position, list[Tensor]]:
        """Takes a whole number of turns; returns the position after them, and all outputs if the layer returns them."""
        span, *inner = spans
        turns = steps_tbd.shape[0] // span
        blocks_nbd = ops.reshape(steps_tbd, (turns, -1, steps_tbd.shape[-1]))
        masks_nkb1 = None if mask_tb1 is None else ops.reshape(mask_tb1, (turns, span, -1, 1))

        # Variables that are not needed are empty lists, because every variable of a loop costs a copy a turn.
        def turn(number: Tensor, states: list[Tensor], held: list[Tensor], collected: list[Tensor]) -> tuple:
            index = turns - 1 - number if self._layer.go_backwards else number
            block, masks = _row(blocks_nbd, index), None if masks_nkb1 is None else _row(masks_nkb1, index)
            here = _Position(states, held[0] if held else states[0])
            if inner:
                block_tbd = ops.reshape(block, (span, -1, block.shape[-1]))
                after, outputs = self._loop(here, block_tbd, masks, tuple(inner))
                outputs = [ops.reshape(all_tbd, (-1, all_tbd.shape[-1])) for all_tbd in outputs]
            else:
                after, outputs = self._unroll(here, ops.split(block, span), masks)
            collected = [
                ops.slice_update(all_nbd, (number, 0, 0), _concatenate(outputs)[None]) for all_nbd in collected
            ]
            return number + 1, after.states, [after.output] if held else [], collected

        held = [] if masks_nkb1 is None else [at.output]
        collected = []
        if self._layer.return_sequences:
            # Any values of that shape, since each row is written; zeros would be a constant of the file.
            collected.append(blocks_nbd[:, :, : at.output.shape[-1]])
        _, states, held, collected = ops.while_loop(
            lambda number, *_: number < turns, turn, (0, list(at.states), held, collected)
        )
        outputs = [ops.reshape(all_nbd, (turns * span, -1, all_nbd.shape[-1])) for all_nbd in collected]
        return _Position(states, held[0] if held else states[0]), outputs

    def _unroll(self, at: _Position, steps: Sequence[Tensor], masks: Tensor) -> tuple[_Position, list[Tensor]]:
        """Takes steps one by one; returns the position after them, and the outputs in the order of the steps taken."""
        outputs = []
        for index in reversed(range(len(steps))) if self._layer.go_backwards else range(len(steps)):
            at = self._step(at, steps[index], None if masks is None else masks[index])
            outputs.append(at.output)
        return at, outputs

    def _step(self, at: _Position, projected: Tensor, counts: Tensor) -> _Position:
        after = self._cell.step(projected, at.states)
        if counts is None:
            return _Position(after, after[0])
        held_back = ops.zeros_like(at.output) if self._layer.zero_output_for_mask else at.output
        states = [ops.where(counts, new, old) for new, old in zip(after, at.states, strict=True)]
        return _Position(states, ops.where(counts, after[0], held_back))


def _concatenate(parts: list[Tensor]) -> Tensor:
    return ops.concatenate(parts) if len(parts) > 1 else parts[0]


def _row(blocks: Tensor, index: Tensor) -> Tensor:
    """Returns one block. On the TensorFlow backend only: `ops.take` spends four operators on negative indices."""
    import tensorflow as tf

    return tf.gather(blocks, index)
