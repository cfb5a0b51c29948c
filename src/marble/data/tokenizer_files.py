"""A tokenizer's files as transformers lays them out: read as what they say there, and written so that it opens them."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from marble.data import tokenizer_pipelines as pipelines
from marble.data import tokenizer_special as special
from marble.data.tokenizer_special import BERT, CLIP, Files, Kind
from marble.errors import InputError

MOST_LENGTH = 2**20
"""A model_max_length above it means that there is none: 1e30 is written then."""
SUPPORTED = "tokenizer.json, CLIP's vocab.json and merges.txt, or BERT's vocab.txt"
ANY_CLASS = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""transformers' classes that say nothing of the kind."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt")


class Read(NamedTuple):
    """What a folder holds: the library's tokenizer, three tokens of it, and how many tokens a row has."""

    backend: tokenizers.Tokenizer
    begin: str
    end: str
    pad: str
    max_length: int


def read(folder: str | os.PathLike[str]) -> Read:
    """The tokenizer of a folder; InputError, one line, for all that is wrong or not supported."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the folder of a tokenizer ({SUPPORTED})")
    names = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    files = Files(folder, *(_json(folder / name) if (folder / name).exists() else {} for name in names))
    _refuse_class(files, CLIP.classes + BERT.classes)
    file, data = _vocabulary(files)
    kind = _kind(data)
    _refuse_class(files, kind.classes)
    tokens = special.named(files, kind)
    around = data.pop("around", [])
    if around not in ([], [tokens[kind.begin], tokens[kind.end]]):
        raise InputError(
            f"{file} puts {around} around a text, and {kind.begin} and {kind.end} are {tokens[kind.begin]!r} and "
            f"{tokens[kind.end]!r}: correct its post_processor, or tokenizer_config.json"
        )
    return Read(
        _backend(file, data, files, tokens),
        begin=tokens[kind.begin],
        end=tokens[kind.end],
        pad=tokens["pad_token"],
        max_length=_max_length(files, kind),
    )


def write(folder: str | os.PathLike[str], read: Read) -> None:
    """Writes what was read, or made, into the folder, which is made too."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = json.loads(read.backend.to_str())
    kind, model = _kind(data), data["model"]
    named = {kind.begin: read.begin, kind.end: read.end, "pad_token": read.pad, "unk_token": model["unk_token"]}
    named |= {key: token for key, token in kind.tokens.items() if key == "mask_token" and token in model["vocab"]}
    named = {key: token for key, token in named.items() if token is not None}
    files = {
        "tokenizer.json": data,
        "tokenizer_config.json": _config(kind, data, named, read.max_length),
        "special_tokens_map.json": named,
    }
    if kind is CLIP:
        files["vocab.json"] = model["vocab"]
        merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"])
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    for name, value in files.items():
        indent = None if name == "vocab.json" else 2
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def _config(kind: Kind, data: Mapping[str, Any], named: Mapping[str, str], max_length: int) -> dict[str, Any]:
    """A tokenizer_config.json."""
    arguments = pipelines.arguments_of(data)
    return {
        "tokenizer_class": ANY_CLASS[0] if arguments is None else kind.classes[0],
        "model_max_length": max_length,
        "added_tokens_decoder": {
            str(token["id"]): {"content": token["content"], **special.flags_of(token)} for token in data["added_tokens"]
        },
        **named,
        **(arguments or {}),
    }


def _kind(data: Mapping[str, Any]) -> Kind:
    return CLIP if data["model"]["type"] == "BPE" else BERT


def _vocabulary(files: Files) -> tuple[Path, dict[str, Any]]:
    """The file that holds the vocabulary, and the JSON of a tokenizer of it as the library writes it."""
    folder = files.folder
    there = [name for name in VOCABULARIES if (folder / name).exists()]
    if "tokenizer.json" in there:
        return folder / "tokenizer.json", _checked_data(folder / "tokenizer.json")
    if "vocab.json" in there and "merges.txt" in there:
        vocab, merges = _bpe(folder / "vocab.json", folder / "merges.txt")
        unknown = special.named(files, CLIP)["unk_token"]
        return folder / "vocab.json", pipelines.clip(vocab, merges, unknown=unknown)
    if "vocab.txt" in there:
        # As the library reads it: lines, and no token with white space at its end
        lines = _text(folder / "vocab.txt").removesuffix("\n").split("\n")
        vocab = {line.rstrip(): i for i, line in enumerate(lines)}
        return folder / "vocab.txt", pipelines.bert(vocab, unknown=special.named(files, BERT)["unk_token"])
    found = there or sorted(path.name for path in folder.iterdir())[:8]
    said = "SentencePiece (T5's) is not supported; " if "spiece.model" in found else ""
    raise InputError(f"{folder} has no tokenizer that can be read, but {found}: {said}it needs {SUPPORTED}")


def _bpe(vocab_file: Path, merges_file: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's symbols with their ids, and the pairs that are merged, in order."""
    vocab = _json(vocab_file)
    _check_vocab(vocab_file, vocab)
    # Only these line ends: symbols hold others that Python takes for line ends
    lines = [line.removesuffix("\r") for line in _text(merges_file).split("\n")]
    merges = [line for line in lines if line and not line.startswith("#version")]
    return vocab, _merges(merges_file, vocab, merges)


def _checked_data(file: Path) -> dict[str, Any]:
    """The JSON of a tokenizer.json whose model is CLIP's or BERT's, without what stands around a text.

    The library ends the whole process over some damaged files, so what it doesn't check is checked here.
    """
    data = _json(file)
    model = data.get("model")
    if not isinstance(model, dict) or not isinstance(data.setdefault("added_tokens", []), list):
        raise InputError(f"{file} has no model, or no list of added_tokens: it is no file of the tokenizers library")
    # Files of old versions leave the type out
    kind = model.setdefault("type", "BPE" if "merges" in model else "WordPiece")
    if kind not in ("BPE", "WordPiece") or (kind == "BPE" and model.get("end_of_word_suffix") != "</w>"):
        found = "BPE without </w>" if kind == "BPE" else repr(kind)[:80]
        raise InputError(
            f"{file} holds a model that is not supported: {found}; it must be CLIP's (BPE with </w>) or BERT's "
            "(WordPiece)"
        )
    _check_vocab(file, model.get("vocab"))
    if kind == "BPE":
        # Dropout, for training, draws at random
        merges = _merges(file, model["vocab"], model.get("merges"))
        model = {**model, "merges": merges, "continuing_subword_prefix": "", "dropout": None}
    return {**data, "model": model, "around": _around(file, data.get("post_processor")), "post_processor": None}


def _around(file: Path, processor: Any) -> list[str]:
    """The tokens that a post_processor of a tokenizer.json puts around a text."""
    try:
        match processor:
            case {"type": "RobertaProcessing" | "BertProcessing"}:
                return [processor["cls"][0], processor["sep"][0]]
            case {"type": "TemplateProcessing"}:
                return [piece["SpecialToken"]["id"] for piece in processor["single"] if "SpecialToken" in piece]
            case {"type": "Sequence"}:
                return [token for each in processor["processors"] for token in _around(file, each)]
            case None | {"type": "ByteLevel"}:
                return []
    except (KeyError, IndexError, TypeError):
        pass
    raise InputError(f"{file} has a damaged or unknown post_processor: download it again")


def _merges(file: Path, vocab: Mapping[str, int], merges: Any) -> list[tuple[str, str]]:
    """Pairs of symbols, each given as two or with a space; InputError where one or what they make is no symbol."""
    if not isinstance(merges, list):
        raise InputError(f"{file} holds no merges: they must be a list of pairs of symbols")
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else merge for merge in merges]
    for pair in pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            raise InputError(f"{file} has the merge {str(pair)[:80]}: it must be two symbols with a space")
        missing = [symbol for symbol in (*pair, "".join(pair)) if symbol not in vocab]
        if missing:
            raise InputError(
                f"{file} merges {' and '.join(pair)[:80]!r}, and {missing[0][:80]!r} is not in the vocabulary: "
                "take all files from one checkpoint"
            )
    return pairs


def _check_vocab(file: Path, vocab: Any) -> None:
    if not isinstance(vocab, dict) or not vocab:
        raise InputError(f"{file} holds no vocabulary: it must be an object of tokens and their ids")
    for token, found in vocab.items():
        if not special.is_id(found):
            raise InputError(f"{file}: the token {token[:80]!r} has the id {found!r}: it must be in 0..{2**31 - 1}")
    if len(set(vocab.values())) != len(vocab):
        raise InputError(f"{file} gives one id to several tokens: download it again")


def _backend(file: Path, data: Mapping[str, Any], files: Files, tokens: Mapping[str, str]) -> tokenizers.Tokenizer:
    """The library's tokenizer, with its special tokens, each of the id that the files give it."""
    added = special.added(files, _kind(data), data["added_tokens"])
    data = pipelines.with_arguments({**data, "added_tokens": []}, _arguments(files))
    try:
        backend = tokenizers.Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # The library has no other type for what it finds
        raise InputError(f"{file} is damaged: {' '.join(str(error).split())[:200]}: download it again") from error
    special.add(backend, added, file)
    needed = {**tokens, "unk_token": backend.model.unk_token}
    needed.pop("mask_token", None)
    for key, token in needed.items():
        if token is not None and backend.token_to_id(token) is None:
            raise InputError(f"{file} lacks the {key} {token!r}: take all files from one checkpoint")
    return backend


def _arguments(files: Files) -> dict[str, bool | None]:
    """What the config says of BERT's normaliser."""
    told = {key: files.config[key] for key in pipelines.BERT_ARGUMENTS if key in files.config}
    for key, value in told.items():
        if not isinstance(value, bool) and not (key == "strip_accents" and value is None):
            raise InputError(f"{files.folder / 'tokenizer_config.json'}: {key}={value!r} must be true or false")
    return told


def _refuse_class(files: Files, classes: tuple[str, ...]) -> None:
    name = files.config.get("tokenizer_class")
    if name is not None and name not in classes + ANY_CLASS:
        fitting = ", ".join(name for name in classes if not name.endswith("Fast"))
        raise InputError(
            f"{files.folder / 'tokenizer_config.json'}: tokenizer_class {name!r} is not supported with these files: "
            f"it can be {fitting}"
        )


def _max_length(files: Files, kind: Kind) -> int:
    found = files.config.get("model_max_length")
    if found is None:
        return kind.max_length
    if not isinstance(found, int | float) or isinstance(found, bool) or math.isnan(found) or found < 2:
        file = files.folder / "tokenizer_config.json"
        raise InputError(f"{file}: model_max_length={found!r} must be a whole number of at least 2")
    return int(found) if found <= MOST_LENGTH else kind.max_length


def _json(file: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        value = json.loads(_text(file))
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is not JSON ({error}): download it again") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} has a number too long or brackets too deep to be read") from error
    if not isinstance(value, dict):
        raise InputError(f"{file} is a JSON {type(value).__name__}: it must be an object")
    return value


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error}): download it again") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error
