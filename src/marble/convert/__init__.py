"""Weights of other libraries, both ways: one table of names an architecture, read from a file and written to one."""
