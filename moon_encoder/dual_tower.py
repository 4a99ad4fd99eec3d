"""The dual tower: a vision and a text tower with residual projections and a fusion layer (CLIP style, late fusion).

    picture only   P_v(v)            text only   P_t(t)            both   F(P_v(v), P_t(t))
    P(x) = B x + MLP(norm x)         B: identity where the widths agree, else rows of an orthogonal matrix
    F(a, b) = a/|a| + b/|b| + MLP([a/|a|, b/|b|])

The last layer of each MLP starts at 0, so that training starts from the checkpoint's own vectors: with `dim` equal to
the tower's width, the vector of a picture is exactly the mean-pooled hidden state. With `vision.whiten` x is whitened
first and B, which is trained, starts as the first rows of the identity, so that training starts from the first `dim`
principal parts. Shapes: n contents, D vector dim.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from data.errors import InputError
from moon_encoder.config import DualTowerConfig
from moon_encoder.content import Content, has_text
from moon_encoder.encoder import Encoder
from moon_encoder.pretrained import model_folder
from moon_encoder.towers import TextTower, VisionTower, state_digest


@dataclass(frozen=True)
class DualInputs:
    """A prepared batch of n contents, m of them with a picture and k with a text.

    Attributes:
        rows: n.
        image_row: (m,) int64, ascending: which contents have a picture.
        image: (m, 3, S, S) uint8 pixels, or the output of the tower's frozen blocks (`image_ready`).
        text_row: (k,) int64, ascending: which contents have a text.
        text: (k, L) int64 token ids, or (k, D) float32 vectors of a frozen tower (`text_ready`).
        length: (k,) int64 tokens of each text, without pads.
        truncated: (n,) bool.
    """

    rows: int
    image_row: Tensor
    image: Tensor
    text_row: Tensor
    text: Tensor
    length: Tensor
    truncated: Tensor
    image_ready: bool = False
    text_ready: bool = False

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice | Tensor) -> Self:
        truncated = self.truncated[rows]
        image_row, image = _picked(self.image_row, self.rows, rows)
        text_row, text = _picked(self.text_row, self.rows, rows)
        length = self.length[text]
        ids = self.text[text]
        if not self.text_ready and len(length):
            ids = ids[:, : int(length.max())]
        return replace(
            self,
            rows=len(truncated),
            image_row=image_row,
            image=self.image[image],
            text_row=text_row,
            text=ids,
            length=length,
            truncated=truncated,
        )

    def cat(self, others: Sequence[Self]) -> Self:
        """This batch with the rows of others behind it."""
        parts = [self, *others]
        starts = torch.tensor([0, *(p.rows for p in parts)]).cumsum(0).tolist()
        texts = [p.text for p in parts if len(p.text)] or [self.text]
        if not self.text_ready:
            width = max(t.shape[1] for t in texts)
            texts = [F.pad(t, (0, width - t.shape[1])) for t in texts]
        return replace(
            self,
            rows=starts[-1],
            image_row=torch.cat([p.image_row + at for p, at in zip(parts, starts, strict=False)]),
            image=torch.cat([p.image for p in parts if len(p.image)] or [self.image]),
            text_row=torch.cat([p.text_row + at for p, at in zip(parts, starts, strict=False)]),
            text=torch.cat(texts),
            length=torch.cat([p.length for p in parts]),
            truncated=torch.cat([p.truncated for p in parts]),
        )

    def to(self, device: torch.device) -> Self:
        tensors = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


def _picked(owners: Tensor, total: int, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
    """For parts that belong to contents `owners` of `total`: their new owners, and which parts stay, in order."""
    place = torch.full((total,), -1, dtype=torch.int64, device=owners.device)
    place[owners] = torch.arange(len(owners), device=owners.device)
    found = place[rows]
    kept = (found >= 0).nonzero()[:, 0]
    return kept, found[kept]


class Whitening(nn.Module):
    """x -> W x + b, scaled to length sqrt(parts); never trained (moon_encoder.whiten fits it)."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, parts).requires_grad_(False)
        nn.init.orthogonal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, width) -> (n, parts)."""
        return F.normalize(self.linear(vectors), dim=1) * math.sqrt(self.linear.out_features)


class Projection(nn.Module):
    """B x + MLP(norm x), see the module."""

    def __init__(self, width: int, dim: int, hidden: int, whiten: int | None = None) -> None:
        super().__init__()
        self.white = Whitening(width, whiten) if whiten else nn.Identity()
        width = whiten or width
        self.base = nn.Identity() if width == dim and not whiten else nn.Linear(width, dim, bias=False)
        if isinstance(self.base, nn.Linear):
            (nn.init.eye_ if whiten else nn.init.orthogonal_)(self.base.weight)
        self.residual = _residual(width, dim, hidden, norm=True) if hidden else None

    def forward(self, vectors: Tensor) -> Tensor:
        """(n, width) -> (n, dim)."""
        vectors = self.white(vectors)
        return self.base(vectors) if self.residual is None else self.base(vectors) + self.residual(vectors)


class Fusion(nn.Module):
    """One vector of a picture's and a text's, see the module."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.residual = _residual(2 * dim, dim, hidden, norm=False) if hidden else None

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """(n, D) and (n, D) -> (n, D)."""
        image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
        both = image + text
        return both if self.residual is None else both + self.residual(torch.cat([image, text], dim=1))


def _residual(width: int, dim: int, hidden: int, norm: bool) -> nn.Sequential:
    last = nn.Linear(hidden, dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    first = [nn.LayerNorm(width)] if norm else []
    return nn.Sequential(*first, nn.Linear(width, hidden), nn.GELU(), last)


class DualTower(Encoder):
    """A vision and a text tower, or one of them."""

    def __init__(self, config: DualTowerConfig, vision: VisionTower | None, text: TextTower | None) -> None:
        super().__init__()
        self.config: DualTowerConfig = config
        self.vision, self.text = vision, text
        self.reads = (*(["image"] if vision else []), *(["text"] if text else []))
        widths = [tower.dim for tower in (vision, text) if tower is not None]
        self.dim = config.dim or widths[0]
        self.matryoshka = tuple(sorted(m for m in config.matryoshka if m < self.dim))
        self.project_image = vision and Projection(vision.dim, self.dim, config.hidden, vision.config.whiten)
        self.project_text = text and Projection(text.dim, self.dim, config.hidden)
        self.fusion = Fusion(self.dim, config.hidden) if vision and text else None

    @classmethod
    def build(cls, config: DualTowerConfig, assets: Path | None = None) -> "DualTower":
        """From the checkpoints that the config names, or from a saved encoder's assets (weights still random).

        Raises InputError for a checkpoint that is absent or does not fit.
        """
        vision = text = None
        if config.vision is not None:
            folder = model_folder(config.vision) if assets is None else assets / "vision"
            vision = VisionTower(config.vision, folder, pretrained=assets is None)
        if config.text is not None:
            folder = model_folder(config.text) if assets is None else assets / "text"
            text = TextTower(config.text, folder, pretrained=assets is None)
        return cls(config, vision, text)

    def save_assets(self, folder: Path) -> None:
        """Write vision/ and text/."""
        for name, tower in (("vision", self.vision), ("text", self.text)):
            if tower is not None:
                (folder / name).mkdir(parents=True, exist_ok=True)
                tower.save_assets(folder / name)

    def prepare(self, contents: Sequence[Content]) -> DualInputs:
        """Contents (n) -> a batch on the CPU.

        Raises InputError for a content that has only a modality without a tower.
        """
        images = {i: c.image for i, c in enumerate(contents) if self.vision and c.image is not None}
        texts = {i: c.text for i, c in enumerate(contents) if self.text and has_text(c)}
        for i in range(len(contents)):
            if i not in images and i not in texts:
                raise InputError(f"content {i}: this encoder reads {'pictures' if self.vision else 'texts'} only")
        pixels = torch.empty(0, 3, 1, 1, dtype=torch.uint8)
        image_ready, text_ready = (isinstance(next(iter(x.values()), None), np.ndarray) for x in (images, texts))
        if image_ready:
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images.values()])).float()
        elif images and self.vision:
            pixels = self.vision.pixels(list(images.values()))  # pyright: ignore[reportArgumentType]
        ids, length = torch.empty(0, 0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        truncated = torch.zeros(len(contents), dtype=torch.bool)
        if text_ready:
            ids = torch.from_numpy(np.stack([np.asarray(text) for text in texts.values()])).float()
            length = torch.ones(len(ids), dtype=torch.int64)
        elif texts and self.text:
            ids, length, cut = self.text.tokens(list(texts.values()))  # pyright: ignore[reportArgumentType]
            truncated[list(texts)] = cut
        of_image, of_text = (torch.tensor(list(found), dtype=torch.int64) for found in (images, texts))
        return DualInputs(len(contents), of_image, pixels, of_text, ids, length, truncated, image_ready, text_ready)

    @torch.no_grad()
    def frozen_images(self, images: Sequence[Image.Image]) -> np.ndarray | None:
        """Output of the vision tower's frozen blocks."""
        if self.vision is None or not self.vision.frozen_stem:
            return None
        return self.vision.frozen(self.vision.pixels(images).to(self.device)).cpu().numpy()

    @torch.no_grad()
    def frozen_texts(self, texts: Sequence[str]) -> np.ndarray | None:
        """Vectors of a frozen text tower."""
        if self.text is None or not self.text.all_frozen:
            return None
        ids, length, _ = self.text.tokens(texts)
        return self.text(ids.to(self.device), length.to(self.device)).cpu().numpy()

    def frozen_digest(self) -> str:
        """sha256 over the picture's way through the frozen blocks."""
        if self.vision is None or not self.vision.frozen_stem:
            return ""
        return self.vision.digest()

    def frozen_text_digest(self) -> str:
        """sha256 over the text tower, where it is frozen."""
        if self.text is None or not self.text.all_frozen:
            return ""
        rust = self.text.tokenizer.backend_tokenizer
        return state_digest(f"{self.text.config.max_tokens} {rust.to_str()}", self.text.model.state_dict())

    @torch.no_grad()
    def precompute(self, inputs: DualInputs) -> DualInputs:  # type: ignore[override]
        """The output of the towers' frozen blocks in place of the pixels, and of a frozen text tower."""
        if self.vision and not inputs.image_ready and len(inputs.image):
            inputs = replace(inputs, image=self.vision.frozen(inputs.image), image_ready=True)
        if self.text and self.text.all_frozen and not inputs.text_ready and len(inputs.text):
            inputs = replace(inputs, text=self.text(inputs.text, inputs.length), text_ready=True)
        return inputs

    def forward(self, inputs: DualInputs) -> Tensor:  # type: ignore[override]
        """A batch -> vectors (n, dim) float32."""
        out = torch.zeros(len(inputs), self.dim, device=self.device)
        image = text = None
        if self.vision and self.project_image and len(inputs.image):
            frozen = inputs.image if inputs.image_ready else self.vision.frozen(inputs.image)
            image = self.project_image(self.vision.trained(frozen))
            out = out.index_copy(0, inputs.image_row, image)
        if self.text and self.project_text and len(inputs.text):
            vector = inputs.text if inputs.text_ready else self.text(inputs.text, inputs.length)
            text = self.project_text(vector)
            out = out.index_copy(0, inputs.text_row, text)
        if image is None or text is None or self.fusion is None:
            return out
        of_image, of_text = _both(inputs.image_row, inputs.text_row)
        return out.index_copy(0, inputs.image_row[of_image], self.fusion(image[of_image], text[of_text]))


def _both(image_row: Tensor, text_row: Tensor) -> tuple[Tensor, Tensor]:
    """Places in both lists of the contents that are in both; the lists ascend."""
    of_image = torch.isin(image_row, text_row).nonzero()[:, 0]
    return of_image, torch.searchsorted(text_row, image_row[of_image])
