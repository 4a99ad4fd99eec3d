"""What a content mechanism gets to see. A mechanism is a module `Evidence -> (B, width)` with that `width`."""

from dataclasses import dataclass, field

from features.batch import Batch
from ranker.item_vectors import Content
from ranker.similarity import Cosines, cosines
from ranker.target_attention import Behaviours


@dataclass
class Evidence:
    """One batch: the embedded behaviours of every sequence and the content of every store, by name."""

    batch: Batch
    behaviours: dict[str, Behaviours]
    content: dict[str, Content]
    _cosines: dict[tuple[str, str], Cosines] = field(default_factory=dict)

    def cosines(self, vectors: str, sequence: str) -> Cosines:
        """Similarity of the behaviours of `sequence` to the target in `vectors`, computed once a batch."""
        key = (vectors, sequence)
        if key not in self._cosines:
            c = self.content[vectors]
            behaviours = self.behaviours[sequence].sequence
            self._cosines[key] = cosines(behaviours, c, c.unit_target_BM, c.target_present_B)
        return self._cosines[key]
