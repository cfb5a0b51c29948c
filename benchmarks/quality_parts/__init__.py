"""The sides of the suite quality, and its page."""
