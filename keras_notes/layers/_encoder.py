"""A block of a Transformer's encoder."""

from __future__ import annotations

from typing import Any

import keras

from keras_notes.layers._block import Block
from keras_notes.layers._initializers import seeds_from

__all__ = ["TransformerEncoder"]


@keras.saving.register_keras_serializable(package="keras_notes")
class TransformerEncoder(Block):
    """One block of a Transformer's encoder: self-attention and a network for each position.

        x = norm(x + attention(x, x));       outputs = norm(x + feed_forward(x))            norm_first=False
        x = x + attention(norm(x));          outputs = x + feed_forward(norm(x))            norm_first=True

    The width is that of the inputs. A stack of blocks with `norm_first` ends in a normalization of its own.

    Args:
        num_heads: Of the attention, >= 1; must divide the width.
        hidden_width: Of the feed-forward network, >= 1.
        dropout: In training: of the scores, and of what attention and network add; in [0, 1].
        activation: "relu", "gelu", "swiglu", or another activation of Keras.
        normalization: "layer", or "rms".
        norm_first: Whether sublayers get normalized inputs (trains without a warm-up), or the sum behind them is
            normalized (as in 2017).
        num_key_value_heads: Heads of keys and values, a divisor of `num_heads`. Defaults to it.
        rotary: Whether the attention knows positions, by `apply_rotary`; the width of a head must be even then.
        rotary_base: Of `rotary_angles`, > 0.
        use_bias: Whether projections and dense layers add a bias.
        epsilon: Of the normalizations, > 0.
        kernel_initializer: Of the kernels.
        seed: Of all dropout.
        **kwargs: As in `keras.layers.Layer`.

    Call arguments:
        inputs: Shape (batch, length, width), as the outputs.
        mask: Padding of shape (batch, length): False where nobody looks.
        attention_mask: True where a position may look at another; see `MultiHeadAttention`.
        return_attention_scores: Whether to return `(outputs, scores)`, scores of shape (batch, heads, length, length).
        training: Whether to drop.

    Masking:
        A Keras mask of the inputs counts as `mask`, and is handed on.

    LiteRT:
        Those of `MultiHeadAttention` and of the network; MEAN, SUB, MUL, ADD and RSQRT for a normalization, without the
        NEG of Keras's, for which there is no integer operator.

    Raises:
        ValueError: If an argument is out of its range, or shapes do not fit together.

    Example:
        >>> import numpy as np
        >>> block, x = TransformerEncoder(2, 16, norm_first=True), np.ones((1, 3, 8), "float32")
        >>> outputs, scores = block(x, mask=np.array([[True, True, False]]), return_attention_scores=True)
        >>> np.asarray(scores)[0, 0].round(2).tolist()
        [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]

    References:
        Vaswani et al. 2017, section 3.1 (https://arxiv.org/abs/1706.03762).
        Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, table 1
        (https://arxiv.org/abs/2002.04745).
    """

    def build(self, inputs_shape: Any) -> None:
        seeds = seeds_from(self.seed, 3)
        self.attention = self._attention(
            "attention", inputs_shape, seeds[0], rotary=self.rotary, rotary_base=self.rotary_base
        )
        self.attention.build(inputs_shape, inputs_shape)
        self.attention_norm, self.attention_dropout = self._around("attention", inputs_shape, seeds[1])
        self.feed_forward = self._feed_forward(inputs_shape)
        self.feed_forward_norm, self.feed_forward_dropout = self._around("feed_forward", inputs_shape, seeds[2])

    def call(
        self,
        inputs: Any,
        mask: Any = None,
        attention_mask: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Any:
        def attend(x):
            masks = {"query_mask": mask, "value_mask": mask, "attention_mask": attention_mask}
            return self.attention(x, x, **masks, return_attention_scores=True, training=training)

        x, scores = self._residual(inputs, attend, self.attention_norm, self.attention_dropout, training)
        (outputs,) = self._residual(
            x, lambda x: (self.feed_forward(x),), self.feed_forward_norm, self.feed_forward_dropout, training
        )
        return (outputs, scores) if return_attention_scores else outputs
