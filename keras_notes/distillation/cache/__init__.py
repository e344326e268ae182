"""Teacher caches: outputs and features of teachers on disk."""
