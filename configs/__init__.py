"""The experiments that come with marble, one a file."""
