"""Side-by-side measurements of keras_notes, to be run from a checkout: `python -m benchmarks` lists them."""
