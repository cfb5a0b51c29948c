"""What the suite text_to_image needs on a machine without data."""
