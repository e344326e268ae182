"""Outputs and features of teachers and students, recorded in one forward pass."""
