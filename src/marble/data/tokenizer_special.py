"""Special tokens of a tokenizer's files: which there are, and how each is found in a text.

Which file speaks is transformers' rule: tokenizer_config.json alone if it has added_tokens_decoder, else
special_tokens_map.json before it. Stable Diffusion 2 depends on it: its two files name different pads. What is special
is found whole in a text, the pad "!" of Stable Diffusion 2 too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken

from marble.errors import InputError


class Kind(NamedTuple):
    """CLIP's or BERT's defaults: the classes that transformers has for it, and its special tokens by their keys."""

    classes: tuple[str, ...]
    begin: str
    end: str
    tokens: Mapping[str, str]
    max_length: int


START, END = "<|startoftext|>", "<|endoftext|>"
CLIP = Kind(
    ("CLIPTokenizer", "CLIPTokenizerFast"),
    "bos_token",
    "eos_token",
    {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END},
    77,
)
BERT = Kind(
    ("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast"),
    "cls_token",
    "sep_token",
    {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]", "mask_token": "[MASK]"},
    512,
)
EXTRA = ("additional_special_tokens", "extra_special_tokens")


class Added(NamedTuple):
    """A token that is found whole in a text; index None is that of the vocabulary, for one that a key names."""

    token: AddedToken
    index: int | None
    required: bool


class Files(NamedTuple):
    """What the JSON files of a folder hold; {} where there is none."""

    folder: Path
    config: Mapping[str, Any]
    special_map: Mapping[str, Any]
    added: Mapping[str, Any]

    @property
    def told(self) -> Mapping[str, Any]:
        """The special tokens by their keys, from the file that speaks, with the rest of the config."""
        return self.config if "added_tokens_decoder" in self.config else {**self.config, **self.special_map}


def named(files: Files, kind: Kind) -> dict[str, str]:
    """The special tokens by their keys: bos_token, pad_token, ...; the kind's own where the files name none."""
    told = {key: files.told.get(key) for key in kind.tokens}
    return {
        key: kind.tokens[key] if token is None else content(files.folder, key, token) for key, token in told.items()
    }


def added(files: Files, kind: Kind, of_vocabulary: list[Any]) -> list[Added]:
    """All tokens that are found whole, those with an id in its order first; of_vocabulary are tokenizer.json's."""
    names = named(files, kind)
    listed = _listed(files, of_vocabulary, set(names.values()))
    given = [(key, files.told.get(key) or names[key], False) for key in names]
    given += [(key, token, True) for key in EXTRA for token in _extra(files, key)]
    # Of two keys with one token the later says how it is looked for, as for transformers
    more = {content(files.folder, key, token): (token, required) for key, token, required in given}
    for name, (token, required) in more.items():
        flags = token if isinstance(token, dict) else {}
        listed.setdefault(name, ({**flags, "special": True}, None, required))
    found = [Added(AddedToken(name, **flags_of(flags)), i, required) for name, (flags, i, required) in listed.items()]
    return sorted(found, key=lambda one: (one.index is None, one.index or 0))


def add(backend: tokenizers.Tokenizer, tokens: list[Added], file: Path) -> None:
    """Adds them; InputError, which names the file, for one whose id is not what its files say."""
    for token, index, required in tokens:
        if not required and backend.token_to_id(token.content) is None:
            continue
        backend.add_tokens([token])
        found = backend.token_to_id(token.content)
        if index not in (None, found):
            raise InputError(
                f"{file}: the added token {token.content!r} has the id {index} and must have {found}, the "
                "vocabulary's or the next free one: download the folder again"
            )


def flags_of(token: Mapping[str, Any]) -> dict[str, bool]:
    """How a token is looked for; what is special is found before the text is normalised, unless it says otherwise."""
    flags = {flag: bool(token.get(flag, False)) for flag in ("single_word", "lstrip", "rstrip", "special")}
    return {**flags, "normalized": bool(token.get("normalized", not flags["special"]))}


def content(folder: Path, key: str, token: Any) -> str:
    """The text of a token, which files give as such or with flags; InputError where there is none."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str) or not text:
        raise InputError(f"{folder}: {key} has the token {token!r}: it must be a text, or an object with its content")
    return text


def is_id(value: Any) -> bool:
    """Whether it can be the id of a token."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _extra(files: Files, key: str) -> list[Any]:
    """The tokens that are special and have no key of their own."""
    tokens = files.told.get(key) or []
    if not isinstance(tokens, list | dict):
        raise InputError(f"{files.folder}: {key}={tokens!r} must be a list of tokens")
    return list(tokens.values()) if isinstance(tokens, dict) else tokens


def _listed(files: Files, of_vocabulary: list[Any], names: set[str]) -> dict[str, tuple[Mapping[str, Any], int, bool]]:
    """The tokens that files give with their ids: the flags, the id, and True, for they are to be there."""
    decoder = files.config.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict) or not all(i.isdecimal() for i in decoder):
        raise InputError(f"{files.folder / 'tokenizer_config.json'}: added_tokens_decoder must be an object of ids")
    found = [(flags, flags.get("id") if isinstance(flags, dict) else None) for flags in of_vocabulary]
    found += [(flags, int(i)) for i, flags in decoder.items()]
    if "added_tokens_decoder" not in files.config:
        found = [({"content": token, "special": token in names}, i) for token, i in files.added.items()] + found
    for flags, i in found:
        if not isinstance(flags, dict) or not is_id(i):
            raise InputError(
                f"{files.folder}: the added token {flags!r} with the id {i!r} must be an object with an id"
            )
    return {content(files.folder, "added_tokens", flags): (flags, i, True) for flags, i in found}
