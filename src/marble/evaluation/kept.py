"""Numbers as they are printed, kept in metrics.json, and set beside others."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from marble import strict_json
from marble.errors import InputError
from marble.evaluation.stamp import Number, differences
from marble.storage import replace_text

BITS = "bpd"
"""The one metric of the model itself, and not of its samples, whose entries are of another form."""


def lines_of(numbers: Sequence[Number]) -> list[str]:
    """A table: name, value, interval, number of images, and what they were judged by."""
    if not numbers:
        return []
    rows = [("", "value", "95 % interval", "images", "judged by")]
    for number in numbers:
        low_high = "" if number.interval is None else f"{_short(number.interval.low)} to {_short(number.interval.high)}"
        by = str(number.stamp.reference.get("source", "-"))
        rows.append((number.name, _short(number.value), low_high, str(number.stamp.images["num"]), by))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{row[0]:{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]


def entry_name(number: Number) -> str:
    """Its key in metrics.json: numbers of other references or of other sizes do not take each other's place."""
    source = number.stamp.reference.get("source")
    return ", ".join([number.name, *([str(source)] if source else []), str(number.stamp.images["num"])])


def keep_numbers(path: Any, numbers: Sequence[Number]) -> list[str]:
    """Puts numbers into a metrics.json beside what is there; says which they replace were of other protocols."""
    found, warnings = read(path), []
    for number in numbers:
        key, before = entry_name(number), found.setdefault(number.metric, {})
        if key in before:
            warnings += compared(number, before[key], f"{path} had")
        before[key] = number.as_dict()
    _write(path, found)
    return warnings


def keep(path: Any, metric: str, entry: str, value: Mapping[str, Any]) -> None:
    """Puts one entry of a metric into a metrics.json, beside what is there."""
    found = read(path)
    found.setdefault(metric, {})[entry] = value
    _write(path, found)


def _write(path: Any, found: Mapping[str, Any]) -> None:
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_text(epath.Path(path), strict_json.dumps(found, indent=1) + "\n")


def read(path: Any) -> dict[str, dict[str, Any]]:
    """A metrics.json, by metric and entry; {} where there is none. InputError where it is damaged."""
    path = epath.Path(path)
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}): move it away") from error
    if not isinstance(found, dict) or not all(isinstance(entries, dict) for entries in found.values()):
        raise InputError(f"{path} is damaged (it is no object of objects): move it away")
    for metric, entries in found.items():
        for key, entry in entries.items():
            if metric != BITS and not (isinstance(entry, dict) and {"name", "value", "stamp"} <= entry.keys()):
                raise InputError(f"{path} is damaged ({metric}, {key} is no number with its stamp): move it away")
    return found


def read_other(path: Any) -> dict[str, dict[str, Any]]:
    """A metrics.json to compare with; InputError where there is none, or it is damaged."""
    if not epath.Path(path).exists():
        raise InputError(f"there is no {path} to compare with")
    return read(path)


def compared_with(
    numbers: Sequence[Number], other: Mapping[str, Mapping[str, Any]], path: Any
) -> tuple[list[str], list[str]]:
    """A line for each number that another metrics.json, of that path, has too, and the warnings.

    These are where the protocols differ, and where none of the numbers is in it.
    """
    lines, warnings = [], []
    for number in numbers:
        for key, entry in other.get(number.metric, {}).items():
            if entry["name"] == number.name:
                lines.append(f"{number.name}: {_short(number.value)} against {_short(entry['value'])} ({key})")
                warnings += compared(number, entry, f"{path} has")
    if not lines:
        warnings.append(f"{path} has none of {', '.join(number.name for number in numbers)}: nothing is compared")
    return lines, warnings


def compared(number: Number, other: Mapping[str, Any], whose: str) -> list[str]:
    """A line where another number of the same name was measured in another way."""
    found = differences(number.stamp.as_dict(), other.get("stamp", {}))
    if not found:
        return []
    value = _short(other.get("value"))
    return [f"{number.name}: {whose} {value} by another protocol, which does not compare: {'; '.join(found)}"]


def _short(value: Any) -> str:
    return "not a number" if value is None else f"{value:.4g}"
