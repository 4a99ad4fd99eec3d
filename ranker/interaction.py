"""Feature interaction: the cross network of DCN-V2 and the tower."""

import torch
from torch import Tensor, nn

from ranker.activations import activation
from ranker.config import Interaction


class CrossNetwork(nn.Module):
    """DCN-V2 cross layers (Wang et al., arXiv 2008.13535, eq. 2): `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`.

    With `low_rank` r the matrix is U V^T with U, V (width, r) (eq. 3). Input and output (B, width).
    """

    def __init__(self, width: int, layers: int, low_rank: int | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(width, width)
            if low_rank is None
            else nn.Sequential(nn.Linear(width, low_rank, bias=False), nn.Linear(low_rank, width))
            for _ in range(layers)
        )

    def forward(self, x0: Tensor) -> Tensor:
        """x0 (B, width) -> (B, width)."""
        x = x0
        for layer in self.layers:
            x = x0 * layer(x) + x
        return x


class Tower(nn.Module):
    """Fully connected layers with activation and dropout; input (B, width), output (B, last width)."""

    def __init__(self, width: int, widths: tuple[int, ...], act: str, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out in widths:
            layers += [nn.Linear(width, out), activation(act, out)]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = out
        self.layers = nn.Sequential(*layers)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width) -> (B, last width)."""
        return self.layers(x)


class Head(nn.Module):
    """From the concatenated features to one logit: the tower alone (`mlp`), or beside cross layers (`dcnv2`).

    DCN-V2's parallel structure: [cross output, tower output] -> linear -> logit.
    """

    def __init__(self, width: int, tower: Tower, config: Interaction) -> None:
        super().__init__()
        self.tower = tower
        crossed = config.kind == "dcnv2"
        self.cross = CrossNetwork(width, config.layers, config.low_rank) if crossed else None
        self.output = nn.Linear(tower.width + (width if crossed else 0), 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, width) -> logits (B,)."""
        deep = self.tower(x)
        if self.cross is None:
            return self.output(deep).squeeze(1)
        crossed = self.cross(x)
        if torch.compiler.is_exporting():  # compiled with the last cross layer, in one pass
            of_crossed, of_deep = self.output.weight.squeeze(0).split([crossed.size(1), deep.size(1)])
            return crossed @ of_crossed + deep @ of_deep + self.output.bias
        return self.output(torch.cat([crossed, deep], 1)).squeeze(1)
