"""Names of recipes and edge types, for arguments and their help, without the programs behind them."""

__all__ = ["AUTO", "EDGES", "RECIPES", "canonical_recipe"]

RECIPES = ("float32", "float16", "dynamic_int8", "static_int8", "int16x8", "weight_int4")
# Not a format, but the best of them.
AUTO = "auto"
EDGES = ("float32", "uint8", "int8", "int16")
# The names of `quantize_aware`, which `convert` takes too.
_OTHER_NAMES = {"int8": "static_int8"}


def canonical_recipe(name: object) -> object:
    """Returns the name of a recipe that manifests hold; anything else as it is."""
    return _OTHER_NAMES.get(name, name) if isinstance(name, str) else name
