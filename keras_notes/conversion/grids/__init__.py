"""Grids of tensors: rules for ranges, weights and constants, so that every kernel computes what the model does."""
