"""What training minimises."""

import torch.nn.functional as F
from torch import Tensor


def click_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Mean binary cross entropy of click logits (B,) in float32 (0 for an empty batch)."""
    return F.binary_cross_entropy_with_logits(logits.float(), label, reduction="sum") / max(1, len(label))
