"""The sides of quality.py, and its page."""
