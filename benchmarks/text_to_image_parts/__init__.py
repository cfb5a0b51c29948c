"""What text_to_image.py needs on a machine without data."""
