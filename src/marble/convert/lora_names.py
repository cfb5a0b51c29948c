"""Names of adapters' arrays in files: of which module each is, and whether its down, its up or its alpha."""

import re
from collections.abc import Collection, Mapping, Sequence

from marble.convert.compvis_names import unet_layers
from marble.convert.names import MOST_LISTED, some_of
from marble.convert.stored import shown
from marble.convert.tensors import Tensors
from marble.errors import InputError
from marble.schema import nearest

NAME = re.compile(
    r"(?P<module>.+?)(?P<joint>\.lora_|\.lora\.|_lora\.)(?P<half>A|B|down|up)\.weight|(?P<scaled>.+)\.alpha"
)
MOST_NAME = 200
"""Letters of a name that a message shows as it is."""


def keys_of(tensors: Tensors, modules: Collection[str], part: str, source: str) -> dict[str, dict[str, str]]:
    """{module: {"down", "up", "alpha": key}}; InputError for a key that is of none, and for two that are the same."""
    kohyas = {there: name for name, there in unet_layers(modules).items()} | {name: name for name in modules}
    named = {**kohyas, **{f"lora_{part}_{name.replace('.', '_')}": module for name, module in kohyas.items()}}
    found: dict[str, dict[str, str]] = {}
    unknown, twice = {}, []
    for key in tensors:
        module, half = _split(key, part)
        if module not in named:
            unknown[key] = module
            continue
        halves = found.setdefault(named[module], {})
        if half in halves:
            twice.append(f"{key} and {halves[half]} are the same")
        halves[half] = key
    listed = [f"{short(key)} {_why(module, named)}" for key, module in list(unknown.items())[:MOST_LISTED]]
    refuse_misfits([*listed, *twice], source, count=len(unknown) + len(twice))
    if not found:
        raise InputError(f"{source} has no adapter of the {part}: is it a file of LoRA?")
    return {name: found[name] for name in modules if name in found}


def _split(key: str, part: str) -> tuple[str | None, str]:
    """The module, by the table's name or by kohya's, and which of "down", "up", "alpha" it is; None for another."""
    match = NAME.fullmatch(key)
    if not match:
        return None, ""
    half = {"A": "down", "B": "up", None: "alpha"}.get(match["half"], match["half"])
    module = (match["module"] or match["scaled"]).removeprefix(f"{part}.").replace(".processor.", ".")
    is_old_output = match["joint"] == "_lora." and module.endswith(".to_out")
    return module + ".0" * is_old_output, half


def _why(module: str | None, named: Mapping[str, str]) -> str:
    if module is None:
        return "is no weight of LoRA (what is read: lora_A, lora_B, lora_down, lora_up, alpha)"
    is_kohya = module.startswith("lora_")
    return f"is of no layer of this model{nearest(module, [n for n in named if n.startswith('lora_') == is_kohya])}"


def short(key: str) -> str:
    """A name on one line, whatever a file has."""
    return key if key.isprintable() and len(key) <= MOST_NAME else shown(key)


def refuse_misfits(lines: Sequence[str], source: str, *, count: int | None = None) -> None:
    """InputError, which begins with source, where there are such lines; count is of all, where some are left out."""
    if lines:
        raise InputError(f"{source} does not fit the model: {some_of(lines, count)}")
