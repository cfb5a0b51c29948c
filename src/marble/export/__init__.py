"""A trained sampler as a program that runs without marble: jax.export's file, the weights, and a small sample.py.

``export`` writes the folder; program.py is what is lowered, standalone.py the sample.py that every folder gets.
"""

from marble.export.folder import export

__all__ = ["export"]
