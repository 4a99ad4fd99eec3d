"""What a content mechanism gets to see. A mechanism is a module `Evidence -> (B, width)` with that `width`."""

from dataclasses import dataclass

from features.batch import Batch
from ranker.item_vectors import Content
from ranker.target_attention import Behaviours


@dataclass
class Evidence:
    """One batch: the embedded behaviours of every sequence and the content of every store, by name."""

    batch: Batch
    behaviours: dict[str, Behaviours]
    content: dict[str, Content]
