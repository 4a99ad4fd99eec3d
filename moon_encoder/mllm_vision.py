"""A pretrained vision model as the eyes of a multimodal LLM, as in LLaVA (Liu et al., arXiv 2304.08485).

The positions of a hidden state become visual tokens through a trained projector of two layers. The vision model is
frozen, so that what it makes of a picture can be kept. Shapes: m pictures of S x S pixels, h x h positions, T = h * h
visual tokens a picture, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from data.errors import InputError
from moon_encoder.patches import PatchGrid
from moon_encoder.towers import VisionTower


class BorrowedVision(nn.Module):
    """Stands in the place of the classes' own vision tower; each position is one patch and one token.

    Attributes:
        grid: how a picture is cut: cells of S/h x S/h pixels.
    """

    spatial_merge_size = 1
    dtype = torch.float32

    def __init__(self, tower: VisionTower, width: int) -> None:
        """`width`: of the language model. Raises InputError for a hidden state that is no square map."""
        super().__init__()
        self.tower = tower
        size = tower.size
        with torch.no_grad():
            shape = tower.map(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape[1:]
        if len(shape) != 3 or shape[1] != shape[2] or size % shape[1]:
            raise InputError(
                f"vision: hidden state {tower.config.hidden_state} is of shape {tuple(shape)} for {size} pixels; a "
                "multimodal LLM needs a map (channels, h, h) of an h that divides the pixels"
            )
        self.side: int = shape[1]
        self.grid = PatchGrid(size // self.side, merge=1, temporal=1, least=size**2, most=size**2)
        self.projector = nn.Sequential(
            nn.LayerNorm(shape[0]), nn.Linear(shape[0], width), nn.GELU(), nn.Linear(width, width)
        )

    def cut(self, image: Image.Image) -> Tensor:
        """A picture -> (T, 3, S/h, S/h) uint8, its cells row by row."""
        h, p = self.side, self.grid.patch
        return self.tower.pixels([image]).reshape(3, h, p, h, p).permute(1, 3, 0, 2, 4).flatten(0, 1)

    def maps(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures (m) -> (m, T, C) float32, without gradient."""
        return self._map(self.tower.pixels(images).to(next(self.tower.parameters()).device))

    def seen(self, patches: Tensor) -> Tensor:
        """Cells (m*T, 3, S/h, S/h) uint8 of pictures -> what the frozen model makes of them (m*T, C)."""
        h, p = self.side, self.grid.patch
        pixels = patches.reshape(-1, h, h, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(-1, 3, h * p, h * p)
        return self._map(pixels).flatten(0, 1)

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithDeepstackFeatures:
        """What the frozen model made (m*T, C) -> visual tokens (m*T, width)."""
        return BaseModelOutputWithDeepstackFeatures(pooler_output=self.projector(pixel_values), deepstack_features=[])

    @torch.no_grad()
    def _map(self, pixels: Tensor) -> Tensor:
        return self.tower.map(pixels).float().flatten(2).transpose(1, 2)
