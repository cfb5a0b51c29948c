"""How much one request, and all that wait, may ask for."""

import dataclasses

from marble.errors import InputError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one page."""

    max_steps: int = 250
    """Steps of a request; of filling a hole, those of one repetition."""
    max_images: int = 4
    """Images of a request, which are drawn in one batch where the model's batches allow it."""
    max_queue: int = 16
    """Requests that wait; others are refused."""
    max_text: int = 1000
    """Characters of a prompt."""
    max_resamples: int = 10
    """Repetitions of a step of filling a hole."""
    max_bytes: int = 10 * 2**20
    """Of an upload, and of anything else that is sent to the page."""
    max_pixels: int = 4096 * 4096
    """Of an uploaded image."""
    max_stored_bytes: int = 512 * 2**20
    """Of the files that uploads and drawings are kept in for a while."""
    patience: float = 30.0
    """Seconds without anybody who follows a drawing until it is ended."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) <= 0:
                raise InputError(f"{field.name}={getattr(self, field.name)} must be above 0")
