"""Contents -> vectors of length 1, a batch at a time; what is wrong with one content is told, and the rest goes on.

Shapes: n contents, D vector dim.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from data.errors import InputError
from moon_encoder.content import Content
from moon_encoder.encoder import Encoder, Inputs
from moon_encoder.losses import unit

BATCH = 64
Outcome = Literal["no vector", "embedded without it", "embedded"]


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be with one content.

    Attributes:
        row: number of the content.
        field: image, title, content or vector.
        reason: what is wrong.
        outcome: what became of the content.
    """

    row: int
    field: str
    reason: str
    outcome: Outcome


Loaded = tuple[Content | None, list[Problem]]
Load = Callable[[int], Loaded]


def embed(
    encoder: Encoder,
    load: Load,
    rows: np.ndarray,
    dim: int | None = None,
    batch: int = BATCH,
    threads: int = 1,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
    """Vectors (n, D) float32 of length 1, mask (n,) bool of those that there are, and problems.

    `rows`: (n,) numbers of the contents. `load` brings one by its number, or None with the reason; it runs in `threads`
    beside the network. `dim`: a Matryoshka prefix. The batches depend on `rows` and `batch` alone, so the same call
    gives the same bytes.

    Raises InputError for a dim that the encoder does not have.
    """
    dim = checked_dim(encoder, dim)
    vectors, present = np.zeros((len(rows), dim), np.float32), np.zeros(len(rows), bool)
    problems: list[Problem] = []
    parts = [np.arange(at, min(at + batch, len(rows))) for at in range(0, len(rows), batch)]
    for places, kept, inputs, found in _ahead(lambda p: _prepare(encoder, load, rows, p), parts, threads):
        problems += found
        if inputs is not None:
            out, finite = _run(encoder, inputs, dim)
            vectors[kept[finite]], present[kept[finite]] = out[finite], True
            bad = kept[~finite]
            problems += [Problem(int(rows[p]), "vector", "not finite, or zero", "no vector") for p in bad]
        progress(len(places))
    return vectors, present, problems


def checked_dim(encoder: Encoder, dim: int | None) -> int:
    """The width of vectors to make; raises InputError if it is neither the encoder's nor one of its prefixes."""
    allowed = [*encoder.matryoshka, encoder.dim]
    if dim is not None and dim not in allowed:
        raise InputError(f"--dim {dim}: the encoder has prefixes of {', '.join(map(str, allowed))}")
    return dim or encoder.dim


@torch.inference_mode()
def _run(encoder: Encoder, inputs: Inputs, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, dim) of length 1 and which are finite and not zero (n,)."""
    vectors = encoder(inputs.to(encoder.device)).float()[:, :dim]
    norm = vectors.norm(dim=1)
    good = norm.isfinite() & (norm > 0)
    return unit(vectors).cpu().numpy(), good.cpu().numpy()


Prepared = tuple[np.ndarray, np.ndarray, Inputs | None, list[Problem]]


def _prepare(encoder: Encoder, load: Load, rows: np.ndarray, places: np.ndarray) -> Prepared:
    """(places, those that are in the batch, the batch, problems)."""
    problems: list[Problem] = []
    contents: list[Content] = []
    kept: list[int] = []
    for place in places:
        content, found = load(int(rows[place]))
        problems += found
        if content is not None:
            contents.append(content)
            kept.append(int(place))
    try:
        inputs = encoder.prepare(contents) if contents else None
    except InputError:
        good = [_refusal(encoder, content) is None for content in contents]
        for place, content in zip(kept, contents, strict=True):
            if reason := _refusal(encoder, content):
                problems.append(Problem(int(rows[place]), "content", reason, "no vector"))
        kept = [place for place, fine in zip(kept, good, strict=True) if fine]
        contents = [content for content, fine in zip(contents, good, strict=True) if fine]
        inputs = encoder.prepare(contents) if contents else None
    if inputs is not None:
        cut = [kept[i] for i in inputs.truncated.nonzero()[:, 0].tolist()]
        texts = {place: content.text or "" for place, content in zip(kept, contents, strict=True)}
        for place in cut:
            reason = f"{len(texts[place]):,} characters, longer than the encoder reads; the end was cut off"
            problems.append(Problem(int(rows[place]), "title", reason, "embedded"))
    return places, np.array(kept, np.int64), inputs, problems


def _refusal(encoder: Encoder, content: Content) -> str | None:
    """Why the encoder does not take a content, or None."""
    try:
        encoder.prepare([content])
    except InputError as error:
        return str(error).removeprefix("content 0: ")
    return None


def _ahead(work: Callable[[np.ndarray], Prepared], parts: Sequence[np.ndarray], threads: int) -> Iterator[Prepared]:
    """`work` of each part in order, done in threads a little ahead of its use."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Prepared]] = deque()
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
