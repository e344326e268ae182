"""Functions of tensors that the losses are computed with; none of them knows a loss."""
