"""The tokenizer of a bundle: a copy of a file in the format of Hugging Face's `tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["TOKENIZER_FILE", "read_tokenizer"]

TOKENIZER_FILE = "tokenizer.json"


def read_tokenizer(path: Path) -> bytes:
    """Returns the bytes of a tokenizer's file.

    Args:
        path: The file, as `tokenizers.Tokenizer.save` writes it.

    Raises:
        ValueError: If it is not JSON, or holds no model with a vocabulary.
    """
    content = path.read_bytes()
    try:
        tokenizer = json.loads(content)
    except ValueError as error:
        raise ValueError(f"`tokenizer` must be a file of JSON. Received: {str(path)!r} ({error}).") from error
    model = tokenizer.get("model") if isinstance(tokenizer, dict) else None
    if not isinstance(model, dict) or "vocab" not in model:
        raise ValueError(
            f"`tokenizer` must hold a model with a vocabulary. Received: {str(path)!r}, which has none. Write it by "
            f"`tokenizers.Tokenizer.save`."
        )
    return content
