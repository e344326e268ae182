"""Keras models, layer by layer: names of layers and operations, patterns of them, and other forms of their calls."""
