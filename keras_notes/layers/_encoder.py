"""The block of a Transformer's encoder."""

from __future__ import annotations

import keras

from keras_notes._shared.types import Tensor, Tree
from keras_notes.layers._block import Block
from keras_notes.layers._initializers import derive_seeds
from keras_notes.layers._inputs import Shape

__all__ = ["TransformerEncoder"]


@keras.saving.register_keras_serializable(package="keras_notes")
class TransformerEncoder(Block):
    """One block of a Transformer's encoder: self-attention, and a feed-forward network for each position.

        x = norm(x + attention(x, x));       outputs = norm(x + feed_forward(x))            norm_first=False
        x = x + attention(norm(x));          outputs = x + feed_forward(norm(x))            norm_first=True

    The width of the outputs is that of the inputs. A stack of blocks with `norm_first` needs a normalization behind the
    last block.

    Args:
        num_heads: Number of heads of the attention, >= 1; must divide the width.
        hidden_width: Width of the hidden vectors of the feed-forward network, >= 1.
        dropout: Dropout rate in training, of the scores and of the outputs of both sublayers; in [0, 1].
        activation: Activation of the feed-forward network: "relu", "gelu", "swiglu", or another activation of Keras.
        normalization: Type of the normalizations: "layer", or "rms".
        norm_first: Whether to normalize the inputs of the sublayers (which trains without a warm-up), or the sums
            behind them (as in 2017).
        num_key_value_heads: Number of heads of keys and values, a divisor of `num_heads`. Defaults to `num_heads`.
        rotary: Whether the attention encodes positions by `apply_rotary`; the width of a head must be even then.
        rotary_base: Base of `rotary_angles`, > 0.
        use_bias: Whether projections and dense layers add a bias.
        epsilon: Number that the normalizations add to the variance, > 0.
        kernel_initializer: Initializer of the kernels.
        seed: Seed of all dropout layers. None for a random one.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Sequence of shape (batch, length, width).
        mask: Padding of shape (batch, length): no position attends to another where it is False.
        attention_mask: Mask that is True where a position may attend to another; see `MultiHeadAttention`.
        return_attention_scores: Whether to return `(outputs, scores)`, scores of shape (batch, heads, length, length).
        training: Whether to apply dropout.

    Returns:
        Outputs of shape (batch, length, width), or `(outputs, scores)`.

    Masking:
        A Keras mask of the inputs counts as `mask`, and is passed on.

    LiteRT:
        The operators of `MultiHeadAttention`; FULLY_CONNECTED and the activation for the feed-forward network; MEAN,
        SUB, MUL, ADD and RSQRT for a normalization. (A conversion by Keras alone adds NEG, which has no integer form.)

    Raises:
        TypeError: If a number has the wrong type.
        ValueError: If an argument is out of its range, or if shapes do not fit together.

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

    def build(self, inputs_shape: Shape) -> None:
        seeds = derive_seeds(self.seed, 3)
        self.attention = self._create_attention("attention", inputs_shape, inputs_shape, seeds[0], rotary=self.rotary)
        self.attention_norm, self.attention_dropout = self._create_norm_and_dropout("attention", inputs_shape, seeds[1])
        self.feed_forward = self._create_feed_forward(inputs_shape)
        self.feed_forward_norm, self.feed_forward_dropout = self._create_norm_and_dropout(
            "feed_forward", inputs_shape, seeds[2]
        )

    def call(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Tree:
        def attend(x):
            masks = {"query_mask": mask, "value_mask": mask, "attention_mask": attention_mask}
            return self.attention(x, x, **masks, return_attention_scores=True, training=training)

        x, scores = self._apply_sublayer(inputs, attend, self.attention_norm, self.attention_dropout, training)
        outputs = self._apply_feed_forward(x, training)
        return (outputs, scores) if return_attention_scores else outputs
