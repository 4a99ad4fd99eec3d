"""What a content mechanism gets to see. A mechanism is a module `Evidence -> (B, width)` with that `width`."""

from dataclasses import dataclass, field

from torch import Tensor

from features.batch import Batch
from ranker.item_vectors import Content
from ranker.similarity import Cosines, cosines
from ranker.target_attention import Behaviours


@dataclass(frozen=True)
class Widths:
    """What mechanisms are built from.

    Attributes:
        vectors: width of a store's vectors. codes: of the embeddings of an item's codes, all levels together; by store.
        items, sides: width of a behaviour's item and side embeddings, by sequence.
    """

    vectors: dict[str, int]
    codes: dict[str, int]
    items: dict[str, int]
    sides: dict[str, int]


@dataclass
class Evidence:
    """One batch: the embedded behaviours of every sequence and the content of every store, by name.

    rows: (U, D) of the codes' look-ups.
    """

    batch: Batch
    content: dict[str, Content]
    behaviours: dict[str, Behaviours] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    _cosines: dict[tuple[str, str, str], Cosines] = field(default_factory=dict)

    def cosines(self, vectors: str, sequence: str, against: str | None = None) -> Cosines:
        """Similarity of the behaviours of `sequence`, whose vectors are `vectors`, to the target in `against`.

        `against`: vectors of the same encoder; None: `vectors` themselves. Of queries the target is the sample's query.
        Computed once a batch.
        """
        key = (vectors, sequence, against or vectors)
        if key not in self._cosines:
            behaviours = self.behaviours[sequence].sequence
            self._cosines[key] = cosines(behaviours, self.content[vectors], self.content[against or vectors])
        return self._cosines[key]

    def narrow(self, sequence: str, kept: Tensor) -> None:
        """From here on only the behaviours `kept` (K,) of `sequence` are to be seen, ascending indices."""
        self.behaviours[sequence] = self.behaviours[sequence].take(kept)
        for key, found in self._cosines.items():
            if key[1] == sequence:
                self._cosines[key] = Cosines(found.values.index_select(0, kept), found.known.index_select(0, kept))
