"""Pictures as the Qwen-VL classes read them: resized to whole patches, cut into patches in the order of merged tokens.

The same numbers as `transformers`' Qwen2VLImageProcessor, but kept as bytes, once, until they are on the device: its
float copies, repeated over the temporal axis, take 24 times the memory.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.errors import InputError

IMAGE_PROCESSOR = "preprocessor_config.json"
LONGEST_RATIO = 200  # of the sides of a picture; beyond it the classes refuse


@dataclass(frozen=True)
class PatchGrid:
    """How a picture is cut: sizes in pixels, merge = patches a side of one visual token.

    Attributes:
        least, most: pixels of a picture after resizing.
        mean, std: of a channel, for values in 0..1.
    """

    patch: int = 16
    merge: int = 2
    temporal: int = 2
    least: int = 32 * 32
    most: int = 128 * 128
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: int = int(Image.Resampling.BICUBIC)

    @classmethod
    def read(cls, folder: Path, most: int) -> "PatchGrid":
        """From a checkpoint's preprocessor_config.json (or processor_config.json), with at most `most` pixels.

        Raises InputError if neither is there.
        """
        for name, inside in ((IMAGE_PROCESSOR, None), ("processor_config.json", "image_processor")):
            if not (folder / name).is_file():
                continue
            tree: dict[str, Any] = json.loads((folder / name).read_text())
            if inside is None or inside in tree:
                return cls._parsed(tree[inside] if inside else tree, most)
        raise InputError(f"{folder / IMAGE_PROCESSOR}: no such file; a multimodal LLM needs its image processor")

    @classmethod
    def _parsed(cls, tree: dict[str, Any], most: int) -> "PatchGrid":
        size = tree.get("size") or {}
        patch, merge = tree.get("patch_size", 14), tree.get("merge_size", 2)
        least = tree.get("min_pixels") or size.get("shortest_edge") or 56 * 56
        largest = tree.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280
        most = max(min(most, largest), (patch * merge) ** 2)
        return cls(
            patch=patch,
            merge=merge,
            temporal=tree.get("temporal_patch_size", 2),
            least=min(least, most),
            most=most,
            mean=tuple(tree.get("image_mean") or (0.48145466, 0.4578275, 0.40821073)),
            std=tuple(tree.get("image_std") or (0.26862954, 0.26130258, 0.27577711)),
            resample=tree.get("resample", int(Image.Resampling.BICUBIC)),
        )

    def write(self, folder: Path) -> None:
        """Write preprocessor_config.json as transformers reads it."""
        facts = asdict(self)
        tree = {
            "image_processor_type": "Qwen2VLImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": self.least, "longest_edge": self.most},
            "patch_size": self.patch,
            "merge_size": self.merge,
            "temporal_patch_size": self.temporal,
            "image_mean": list(facts["mean"]),
            "image_std": list(facts["std"]),
            "resample": self.resample,
        }
        (folder / IMAGE_PROCESSOR).write_text(json.dumps(tree, indent=1))

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) after resizing: multiples of a token's side, the ratio kept as far as that goes."""
        side = self.patch * self.merge
        if max(width, height) > LONGEST_RATIO * min(width, height):
            shorter = math.ceil(max(width, height) / LONGEST_RATIO)  # squeezed rather than refused
            width, height = max(width, shorter), max(height, shorter)
        w, h = (max(round(s / side), 1) * side for s in (width, height))
        if w * h > self.most:
            shrink = math.sqrt(width * height / self.most)
            w, h = (max(math.floor(s / shrink / side), 1) * side for s in (width, height))
            if w * h > self.most:  # so narrow that a token's width is too much: the longer side gives way
                w, h = (min(s, max(self.most // min(w, h) // side, 1) * side) for s in (w, h))
        elif w * h < self.least:
            grow = math.sqrt(self.least / (width * height))
            w, h = (math.ceil(s * grow / side) * side for s in (width, height))
        return w, h

    def cut(self, image: Image.Image) -> tuple[Tensor, tuple[int, int]]:
        """Patches (P, 3, p, p) uint8 in the order of the classes, and the grid (rows, columns) of patches."""
        width, height = self.size(*image.size)
        pixels = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling(self.resample)))
        rows, columns = height // self.patch, width // self.patch
        m, p = self.merge, self.patch
        patches = pixels.reshape(rows // m, m, p, columns // m, m, p, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        return torch.from_numpy(np.ascontiguousarray(patches.reshape(rows * columns, 3, p, p))), (rows, columns)

    def tokens(self, grid: tuple[int, int]) -> int:
        """Visual tokens of a picture with this grid of patches."""
        return grid[0] * grid[1] // self.merge**2

    def normalised(self, patches: Tensor) -> Tensor:
        """(P, 3, p, p) uint8 -> (P, 3 * temporal * p * p) float32, as the classes take it."""
        mean, std = (torch.tensor(v, device=patches.device)[:, None, None] for v in (self.mean, self.std))
        values = (patches * (1 / 255) - mean) / std
        return values[:, :, None].expand(-1, -1, self.temporal, -1, -1).flatten(1)
