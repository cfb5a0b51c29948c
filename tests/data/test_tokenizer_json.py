"""tokenizer.json, as the library writes it: what is refused of it, and what makes no difference."""

import json

import numpy as np
import pytest
import vocabularies
from clip_definition import prompts
from vocabularies import END, START

from marble.data.tokenizer import Tokenizer


def piece(token):
    return {"SpecialToken": {"id": token, "type_id": 0}}


WRONG = {
    "no pairs": (("model", "merges"), [["a"]], "has the merge ['a']: it must be two symbols"),
    "numbers": (("model", "merges"), [1.5], "has the merge 1.5: it must be two symbols"),
    "no merges": (("model", "merges"), None, "holds no merges"),
    "no symbol": (("model", "merges"), ["a zz"], "merges 'a and zz', and 'zz' is not in the vocabulary"),
    "unknown": (("model", "unk_token"), "zz", "lacks the unk_token 'zz'"),
    "ids": (("model", "vocab"), {"a": True}, "the token 'a' has the id True"),
    "around": (("post_processor", "single"), [piece(END), piece(START)], f"puts {[END, START]} around a text, and bos"),
    "no single": (("post_processor", "single"), None, "has a damaged or unknown post_processor"),
    "other": (("post_processor",), {"type": "Other"}, "has a damaged or unknown post_processor"),
    "no cls": (("post_processor",), {"type": "RobertaProcessing", "sep": [END, 1]}, "has a damaged or unknown post_p"),
    "bare": (("added_tokens",), ["a"], "the added token 'a' with the id None must be an object with an id"),
    "no id": (("added_tokens",), [{"content": "a"}], "with the id None must be an object with an id"),
    "normalizer": (("normalizer",), {"type": "Other"}, "tokenizer.json is damaged: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_tokenizer_json_is_named(refusal, tmp_path, clip_folder, name):
    path, value, message = WRONG[name]
    Tokenizer.open(clip_folder).save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    part = data
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    vocabularies.write(tmp_path, {}, None, **{"tokenizer.json": data})
    assert message in refusal(tmp_path)


def test_harmless_parts_of_a_tokenizer_json(tmp_path, clip_folder):
    """Cuts and padding of its own, dropout, a prefix: rows are ours, and nothing is drawn."""
    tokenizer = Tokenizer.open(clip_folder)
    tokenizer.save(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    data["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    data["padding"] = {
        **{"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None},
        **{"pad_id": 1, "pad_type_id": 0, "pad_token": "!"},
    }
    data["model"] |= {"dropout": 0.9, "continuing_subword_prefix": "##"}
    # As old versions of the library wrote it
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    data["model"].pop("type")
    vocabularies.write(tmp_path, None, None, **{"tokenizer.json": data})
    for ours, again in zip(tokenizer.encode(prompts()), Tokenizer.open(tmp_path).encode(prompts()), strict=True):
        np.testing.assert_array_equal(ours, again)
