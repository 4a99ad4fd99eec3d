"""A prepared batch of a multimodal LLM: token sequences with places for pictures, questions packed behind them.

A row is a beginning (segment 0: the picture, the text) and, for generation, any number of questions with their answers
(segments 1, 2, ...). A question sees the beginning and itself, never another question: packing computes the picture
once and gives each answer the very probability it would have alone. Shapes: n rows, L tokens, m pictures, P patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PAD, NOTHING = -1, -100


@dataclass(frozen=True)
class Row:
    """One sequence before it is batched.

    Attributes:
        ids: token ids. segment, place, label: of each token, as in MllmInputs.
        patches: (P, 3, p, p) uint8, or None. grid: rows and columns of patches.
        truncated: whether a text was cut off.
    """

    ids: list[int]
    segment: list[int]
    place: list[int]
    label: list[int]
    patches: Tensor | None
    grid: tuple[int, int]
    truncated: bool


@dataclass(frozen=True)
class MllmInputs:
    """A batch of n rows.

    Attributes:
        ids: (n, L) int64 token ids.
        segment: (n, L) int64, 0 the beginning, from 1 the questions, PAD where there is no token.
        place: (n, L) int64 position in the row's own sequence; every question starts where the beginning ends.
        label: (n, L) int64 the token itself where it is to be predicted, else NOTHING.
        patches: (P, 3, p, p) uint8 patches of all pictures; (P, C) float32 if a frozen tower has seen them already.
        grid: (m, 2) int64 rows and columns of patches of each picture.
        image_row: (m,) int64, ascending: which rows have a picture.
        truncated: (n,) bool.
    """

    ids: Tensor
    segment: Tensor
    place: Tensor
    label: Tensor
    patches: Tensor
    grid: Tensor
    image_row: Tensor
    truncated: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], pad: int) -> Self:
        """Rows padded on the right; `pad` is the token id that fills."""

        def padded(name: str, value: int) -> Tensor:
            return pad_sequence([torch.tensor(getattr(r, name)) for r in rows], batch_first=True, padding_value=value)

        seen = [(i, r.patches, r.grid) for i, r in enumerate(rows) if r.patches is not None]
        return cls(
            padded("ids", pad),
            padded("segment", PAD),
            padded("place", 0),
            padded("label", NOTHING),
            torch.cat([p for _, p, _ in seen]) if seen else torch.empty(0, 3, 1, 1, dtype=torch.uint8),
            torch.tensor([g for _, _, g in seen], dtype=torch.int64).reshape(-1, 2),
            torch.tensor([i for i, _, _ in seen], dtype=torch.int64),
            torch.tensor([r.truncated for r in rows]),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | Tensor) -> Self:
        owner = torch.full((len(self),), -1, dtype=torch.int64, device=self.ids.device)
        owner[self.image_row] = torch.arange(len(self.image_row), device=owner.device)
        found = owner[rows]
        kept = (found >= 0).nonzero()[:, 0]
        images = found[kept]
        width = max(int((self.segment[rows] != PAD).sum(1).max()), 1) if len(found) else 1
        return replace(
            self,
            **{name: getattr(self, name)[rows][:, :width] for name in ("ids", "segment", "place", "label")},
            patches=self.patches[_ranges(self.grid.prod(1), images)],
            grid=self.grid[images],
            image_row=kept,
            truncated=self.truncated[rows],
        )

    def cat(self, others: Sequence[Self]) -> Self:
        """This batch with the rows of others behind it."""
        parts = [self, *others]
        width = max(part.ids.shape[1] for part in parts)
        starts = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0).tolist()
        fill = {"ids": 0, "segment": PAD, "place": 0, "label": NOTHING}

        def widened(part: Self, name: str) -> Tensor:
            value: Tensor = getattr(part, name)
            return torch.nn.functional.pad(value, (0, width - value.shape[1]), value=fill[name])

        return replace(
            self,
            **{name: torch.cat([widened(part, name) for part in parts]) for name in fill},
            patches=torch.cat([part.patches for part in parts if len(part.patches)] or [self.patches]),
            grid=torch.cat([part.grid for part in parts]),
            image_row=torch.cat([part.image_row + at for part, at in zip(parts, starts, strict=False)]),
            truncated=torch.cat([part.truncated for part in parts]),
        )

    def to(self, device: torch.device) -> Self:
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    @property
    def present(self) -> Tensor:
        """(n, L) bool: where there is a token."""
        return self.segment != PAD

    def positions(self, image_token: int, merge: int) -> Tensor:
        """(3, n, L) int64 rotary positions (time, height, width) as the classes count them.

        A picture's tokens share one time and spread over height and width; what follows goes on behind the larger side.
        """
        place = self.place.expand(3, -1, -1).clone()
        if not len(self.image_row):
            return place
        is_image = (self.ids[self.image_row] == image_token) & self.present[self.image_row]
        start = is_image.int().argmax(1, keepdim=True)
        rows, columns = (self.grid // merge)[:, :1], (self.grid // merge)[:, 1:]
        here = self.place[self.image_row]
        inner = here - start
        behind = here - rows * columns + torch.maximum(rows, columns)
        for axis, offset in enumerate((torch.zeros_like(inner), inner // columns, inner % columns)):
            place[axis, self.image_row] = torch.where(is_image, start + offset, torch.where(here < start, here, behind))
        return place

    def causal_mask(self) -> Tensor:
        """(n, 1, L, L) bool: a token sees earlier tokens of the beginning and of its own question, and itself."""
        segment, order = self.segment, torch.arange(self.ids.shape[1], device=self.ids.device)
        own = segment[:, :, None] == segment[:, None, :]
        seen = (own | (segment[:, None, :] == 0)) & (order[:, None] >= order) & self.present[:, None, :]
        return (seen | (order[:, None] == order))[:, None]

    def bidirectional_mask(self) -> Tensor:
        """(n, 1, 1, L) bool: every token sees every token."""
        return self.present[:, None, None, :]


def _ranges(counts: Tensor, picked: Tensor) -> Tensor:
    """Indices of the elements of the picked groups, where group i has counts[i] elements in a row."""
    starts = counts.cumsum(0) - counts
    mine = counts[picked]
    first = (starts[picked] - (mine.cumsum(0) - mine)).repeat_interleave(mine)
    return first + torch.arange(len(first), device=first.device)
