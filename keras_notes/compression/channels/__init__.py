"""Pruning and scaling of whole channels."""
