"""Decoding: token by token, greedily, by beams or drawn."""
