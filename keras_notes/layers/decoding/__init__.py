"""Decoding, id by id: greedy, by beam search or by sampling; and its stages as models for a device."""
