"""Names of recipes and edge types, for arguments and their help, without the programs behind them."""

__all__ = ["AUTO", "EDGES", "RECIPES"]

RECIPES = ("float32", "float16", "dynamic_int8", "static_int8", "int16x8", "weight_int4")
# Not a format, but the best of them.
AUTO = "auto"
EDGES = ("float32", "uint8", "int8", "int16")
