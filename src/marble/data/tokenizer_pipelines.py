"""What CLIP and BERT do to a text before their models of subwords see it, as the JSON of the ``tokenizers`` library.

CLIP (Radford et al. 2021): Unicode's NFC, white space made single spaces, lower case; words by a regular expression;
their UTF-8 bytes as one printable character each; byte pair encoding (Sennrich et al. 2016) whose symbols tell where a
word ends. BERT (Devlin et al. 2019): clean text, words and punctuation, WordPiece.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""Words; what is between them, white space, is left out."""
BERT_ARGUMENTS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""transformers' keys of tokenizer_config.json, and the library's of the normaliser."""


def clip(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], *, unknown: str) -> dict[str, Any]:
    """CLIP's tokenizer without its special tokens, as JSON; symbols that end a word end in </w>."""
    model = models.BPE(vocab={}, merges=[], unk_token=unknown, continuing_subword_prefix="", end_of_word_suffix="</w>")
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(tokenizers.Regex(CLIP_WORDS), behavior="removed", invert=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    data = json.loads(backend.to_str())
    pairs = [list(pair) for pair in merges]
    return {**data, "model": {**data["model"], "vocab": dict(vocab), "merges": pairs}}


def bert(vocab: Mapping[str, int], *, unknown: str, lowercase: bool = True) -> dict[str, Any]:
    """BERT's tokenizer without its special tokens, as JSON; symbols that go on within a word begin with ##."""
    backend = tokenizers.Tokenizer(models.WordPiece(vocab={}, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    data = json.loads(backend.to_str())
    return {**data, "model": {**data["model"], "vocab": dict(vocab)}}


def with_arguments(data: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer with what a tokenizer_config.json says of BERT's normaliser, if it has that."""
    normalizer = data.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return dict(data)
    told = {theirs: config[key] for key, theirs in BERT_ARGUMENTS.items() if key in config}
    return {**data, "normalizer": {**normalizer, **told}}


def arguments_of(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The keys of a tokenizer_config.json by which transformers makes this pipeline again; None where it can't.

    transformers' CLIPTokenizer and BertTokenizer read the vocabulary of a tokenizer.json, and none of its pipeline.
    """
    if data["model"]["type"] == "WordPiece":
        normalizer = data["normalizer"] or {}
        standard = {
            **bert({}, unknown="")["normalizer"],
            **{key: normalizer.get(key) for key in BERT_ARGUMENTS.values()},
        }
        if normalizer == standard and data["pre_tokenizer"] == {"type": "BertPreTokenizer"}:
            return {key: normalizer[theirs] for key, theirs in BERT_ARGUMENTS.items()}
        return None
    standard = clip({}, [], unknown="")
    # The expressions of the words differ by version, and not in what they find
    same = data["normalizer"] == standard["normalizer"] and _steps(data) == _steps(standard)
    return {} if same else None


def _steps(data: Mapping[str, Any]) -> list[Any]:
    steps = data["pre_tokenizer"] or {}
    return [step["type"] for step in steps.get("pretokenizers", [steps]) if step]
