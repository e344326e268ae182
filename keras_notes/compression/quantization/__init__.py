"""Quantization-aware training: a traced network that is evaluated on the integer grids of the device."""
