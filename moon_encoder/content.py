"""What is encoded: the text and the picture of one query or item."""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Content:
    """One thing to encode; None is a missing modality, which contributes no tokens. At least one is needed.

    Attributes:
        text: title or query, or several fields joined.
        image: decoded RGB picture (see data.images.load_image).
        Instead of either, what the encoder's frozen part made of it (see moon_encoder.frozen_cache).
    """

    text: str | np.ndarray | None = None
    image: Image.Image | np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.image is None and not has_text(self):
            raise ValueError("a content needs a text or an image")


def has_text(content: Content) -> bool:
    """Whether there is a text that is not blank."""
    return bool(content.text.strip()) if isinstance(content.text, str) else content.text is not None
