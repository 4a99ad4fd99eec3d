"""What is wrong with single items and queries: told once each, in problems.jsonl, while the rest goes on."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import torch.distributed as dist

from data.errors import InputError
from data.progress import Progress
from features.ranks import Ranks
from moon_encoder.forms import Contents


class Faults:
    """A file of problems, one line an item or query and field."""

    def __init__(self, path: Path, item_ids: Sequence[object]) -> None:
        self.path, self.item_ids, self._lock = path, item_ids, Lock()
        lines = path.read_text().splitlines() if path.is_file() else []
        self._told = {(f["row"], f["field"]) for f in map(json.loads, filter(lambda x: x.endswith("}"), lines))}

    def add(self, row: int | str, field: str, reason: str) -> None:
        """Record a problem of item index `row`, or of a query by its picture's key."""
        with self._lock:
            if (row, field) in self._told:
                return
            self._told.add((row, field))
            of_item = {} if isinstance(row, str) else {"item_id": str(self.item_ids[row])}
            fault = {"row": row, **of_item, "field": field, "reason": reason}
            with self.path.open("a") as file:
                file.write(json.dumps(fault) + "\n")

    def counts(self) -> dict[str, int]:
        """Problems by field."""
        with self._lock:
            fields = sorted({field for _, field in self._told})
            return {field: sum(f == field for _, f in self._told) for field in fields}


def leave_out_unreadable(contents: Contents, faults: Faults, ranks: Ranks) -> None:
    """Look at every picture; those that cannot be read are told, and `contents` has them no longer. The ranks share."""
    jobs: list[int | str] = [*np.flatnonzero(contents.image_keys != "").tolist(), *contents.query_names]
    mine = jobs[ranks.rank :: ranks.world_size]
    progress = Progress("looking at the pictures", len(mine), "pictures")

    def reason(job: int | str) -> str | None:
        try:
            contents.check_image(job)
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        found = []
        for job, why in zip(mine, pool.map(reason, mine), strict=True):
            found += [(job, why)] if why else []
            progress.add(1)
    everybody: list[list[tuple[int | str, str]]] = [found]
    if ranks.world_size > 1:
        everybody *= ranks.world_size
        dist.all_gather_object(everybody, found)
    for job, why in (fault for part in everybody for fault in part):
        contents.leave_out_image(job)
        if ranks.first:
            faults.add(job, "query_image" if isinstance(job, str) else "image", why)
