"""The one interface of every backbone: contents in, vectors out.

Training, recall and the representation centre know an encoder by this interface alone. `prepare` is the part that
needs no gradient (resizing, tokenising), runs on the CPU and is safe in threads; `forward` is the rest.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from moon_encoder.config import EncoderConfig
from moon_encoder.content import Content


class Inputs(Protocol):
    """A prepared batch of n contents."""

    @property
    def truncated(self) -> Tensor:
        """(n,) bool: contents whose text is longer than the encoder reads; its end was cut off."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """Some rows of the batch, in the order asked for (GradCache runs it in parts; a cache is picked from)."""
        ...

    def cat(self, others: Sequence[Self]) -> Self:
        """This batch with the rows of others behind it."""
        ...

    def to(self, device: torch.device) -> Self: ...


class Encoder(nn.Module, ABC):
    """A multimodal encoder. Vectors are not normalised; cosines are taken over any Matryoshka prefix.

    Attributes:
        config: what it was built from.
        dim: width of a vector.
        matryoshka: usable prefix widths below `dim`, ascending.
        reads: the modalities that it takes.
    """

    config: EncoderConfig
    dim: int
    matryoshka: tuple[int, ...]
    reads: tuple[Literal["image", "text"], ...] = ("image", "text")

    @abstractmethod
    def prepare(self, contents: Sequence[Content]) -> Inputs:
        """Contents (n) -> a batch on the CPU. Any mix of text-only, image-only and both.

        Either all pictures of a batch are given as what the frozen part made of them, or none; so with texts.
        Raises InputError for a content that has only a modality which this encoder does not read.
        """

    @abstractmethod
    def forward(self, inputs: Inputs) -> Tensor:
        """A batch -> vectors (n, dim) float32, with gradient in training mode."""

    def precompute(self, inputs: Inputs) -> Inputs:
        """The same batch with everything done that no trained weight changes; `forward` takes both.

        Computed once an item and kept, it saves the frozen part of the network in every later epoch.
        """
        return inputs

    def frozen_images(self, images: Sequence[Image.Image]) -> np.ndarray | None:
        """What the frozen part makes of pictures (n): (n, ...) float32 for `Content.image`; None: nothing is frozen."""
        return None

    def frozen_texts(self, texts: Sequence[str]) -> np.ndarray | None:
        """What a wholly frozen text part makes of texts (n): (n, D) float32 for `Content.text`; None: it is trained."""
        return None

    def frozen_digest(self) -> str:
        """Stands for the frozen picture part: encoders with the same make the same of pictures. "": there is none."""
        return ""

    def frozen_text_digest(self) -> str:
        """Stands for a wholly frozen text part in the same way."""
        return ""

    @abstractmethod
    def save_assets(self, folder: Path) -> None:
        """Write what building the encoder needs besides its weights (model configs, tokenizer, image processor)."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device
