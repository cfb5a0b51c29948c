"""From one kind of checkpoint to another: diffusers' folders, workdirs of marble, and the files of papers' code."""

from marble.conversion.file_kinds import kind_of_file
from marble.conversion.planning import DTYPES, convert

__all__ = ["DTYPES", "convert", "kind_of_file"]
