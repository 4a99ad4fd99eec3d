"""Ready-made vectors into the representation store."""

from collections.abc import Iterable

import numpy as np

from data.errors import InputError
from features.store_writer import StoreWriter


def import_int8(
    writer: StoreWriter, item_ids: np.ndarray, chunks: Iterable[tuple[np.ndarray, np.ndarray]]
) -> dict[str, int]:
    """Ready-made int8 vectors, keyed by source id, into a writer: codes bit for bit, scaled to length 1.

    item_ids: (items,) source id of each item index. chunks: (ids (n,), vectors (n, dim) int8).
    Returns counts {stored, unknown (id not among the items), zero (no direction: stays missing)}.
    Raises InputError for another width than the writer's, or a writer that is not int8.
    """
    if writer.meta["dtype"] != "int8":
        raise InputError(f"{writer.root}: dtype is {writer.meta['dtype']}; int8 vectors need an int8 store")
    order = np.argsort(item_ids, kind="stable")
    sorted_ids = np.asarray(item_ids)[order]
    counts = {"stored": 0, "unknown": 0, "zero": 0}
    for ids, vectors in chunks:
        if vectors.shape[1] != writer.meta["dim"]:
            raise InputError(
                f"{writer.root}: vectors have {vectors.shape[1]} numbers; the store's dim is {writer.meta['dim']}"
            )
        at = np.searchsorted(sorted_ids, ids)
        known = at < len(sorted_ids)
        known[known] = sorted_ids[at[known]] == ids[known]
        norm = np.linalg.norm(vectors.astype(np.float32), axis=1)
        keep = known & (norm > 0)
        writer.put_codes(order[at[keep]], vectors[keep], 1 / norm[keep])
        counts["stored"] += int(keep.sum())
        counts["unknown"] += int((~known).sum())
        counts["zero"] += int((known & (norm == 0)).sum())
    return counts
