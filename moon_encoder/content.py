"""What is encoded: the text and the picture of one query or item."""

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Content:
    """One thing to encode; None is a missing modality, which contributes no tokens. At least one is needed.

    Attributes:
        text: title or query, or several fields joined.
        image: decoded RGB picture (see data.images.load_image).
    """

    text: str | None = None
    image: Image.Image | None = None

    def __post_init__(self) -> None:
        if self.image is None and not (self.text or "").strip():
            raise ValueError("a content needs a text or an image")
