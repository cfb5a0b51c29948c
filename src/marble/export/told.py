"""What makes rows of labels and texts outside of marble: the facts, and the files, of each conditioner that has such.

Rows of others, such as small images, are given as they are.
"""

from pathlib import Path
from typing import Any

from marble.conditioning import Conditioner, Labels, Text


def told(conditioner: Conditioner, folder: Path) -> dict[str, Any]:
    """The part ``told`` of sampler.json; it writes the tokenizers' files into the folder."""
    if isinstance(conditioner, Labels):
        names = conditioner.class_names
        return {"label": {"num_classes": conditioner.num_classes, "class_names": names and list(names)}}
    if isinstance(conditioner, Text):
        return {"text": [_tokenizer(encoder.tokenizer, folder, i) for i, encoder in enumerate(conditioner.encoders)]}
    return {}


def _tokenizer(tokenizer: Any, folder: Path, i: int) -> dict[str, Any]:
    """The file of ``tokenizers``, and what is put around a text's tokens."""
    name = f"tokenizer_{i}"
    tokenizer.save(folder / name)
    around = dict(begin=tokenizer.begin, end=tokenizer.end, pad=tokenizer.pad, length=tokenizer.max_length)
    return {"file": f"{name}/tokenizer.json", **around}
