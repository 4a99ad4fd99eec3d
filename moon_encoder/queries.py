"""The contents of a dataset's queries: the picture of a search, or its text."""

from collections.abc import Sequence

import numpy as np

from data.errors import InputError
from data.queries import pictured, query_ids
from moon_encoder.content import Content
from moon_encoder.embedding import Loaded, Problem
from moon_encoder.forms import Contents


class QueryContents:
    """Loads a query's content by its index (see moon_encoder.embedding.Load)."""

    def __init__(self, contents: Contents, reads: Sequence[str]) -> None:
        """`reads`: what the encoder reads, image and text.

        Raises InputError if the dataset knows no queries.
        """
        self.contents, self.reads = contents, reads
        self._ids = query_ids(contents.dataset).to_list()
        self._picture = pictured(contents.dataset)

    def __len__(self) -> int:
        return len(self._ids)

    def __call__(self, query: int) -> Loaded:
        kind = "image" if self._picture[query] else "text"
        if kind not in self.reads:
            return None, [Problem(query, kind, f"the encoder reads {' and '.join(self.reads)} only", "no vector")]
        if kind == "text":
            return Content(self._ids[query]), []
        try:
            return Content(image=self.contents.query_image(self._ids[query])), []
        except InputError as error:
            return None, [Problem(query, "image", str(error), "no vector")]

    def text_lengths(self) -> np.ndarray:
        """(queries,) int64 characters of each text; 0 for a picture."""
        return np.where(self._picture, 0, np.array([len(name) for name in self._ids], np.int64))
