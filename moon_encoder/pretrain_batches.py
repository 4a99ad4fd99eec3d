"""Batches of stage 1: pictures with their questions, in an order that seed and epoch fix, prepared ahead in threads."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from data.errors import InputError
from features.ranks import Ranks
from moon_encoder.content import Content
from moon_encoder.faults import Faults
from moon_encoder.forms import Contents
from moon_encoder.frozen_cache import item_pictures
from moon_encoder.generation_tasks import Tasks
from moon_encoder.mllm import Mllm
from moon_encoder.mllm_inputs import MllmInputs
from moon_encoder.pretrain_config import PretrainLoop

Questions = list[tuple[str, str | None]]


class QuestionBatches:
    """Pictures of items with questions, as batches for a multimodal LLM."""

    def __init__(
        self, encoder: Mllm, contents: Contents, tasks: Tasks, faults: Faults, cache: Path | None = None
    ) -> None:
        """cache: folder for what a frozen part makes of pictures; None: it is computed again every time."""
        self.encoder, self.contents, self.tasks, self.faults = encoder, contents, tasks, faults
        self._pictures = item_pictures(encoder, contents, cache) if cache is not None else None

    def prepared(self, rows: np.ndarray, ask: Callable[[int], Questions]) -> tuple[MllmInputs, np.ndarray] | None:
        """A batch of the items `rows` (their indices), and those that are in it; None if no picture can be read."""
        shown: list[Content] = []
        questions, kept = [], []
        for row in rows.tolist():
            try:
                shown.append(Content(image=self._picture(row)))
            except InputError as error:
                self.faults.add(row, "image", str(error))
                continue
            questions.append(ask(row))
            kept.append(row)
        if not kept:
            return None
        batch = self.encoder.prepare_questions(shown, questions)
        for place in np.flatnonzero(batch.truncated.numpy()):
            most = self.encoder.config.max_tokens
            self.faults.add(kept[place], "text", f"longer than the {most} tokens that are read; cut off")
        return batch, np.array(kept)

    def _picture(self, row: int) -> Image.Image | np.ndarray:
        if self._pictures is None:
            return self.contents.item_image(row)
        return self._pictures(np.array([row]))[0]

    def epoch(
        self, rows: np.ndarray, loop: PretrainLoop, ranks: Ranks, seed: int, epoch: int, start: int
    ) -> Iterator[MllmInputs | None]:
        """This rank's batches of an epoch over the items `rows`, from number `start` on."""
        order = np.random.default_rng([seed, 1, epoch]).permutation(rows)
        size, world = loop.batch_size, ranks.world_size

        def ask(row: int) -> Questions:
            rng = np.random.default_rng([seed, 2, epoch, row])
            return [*self.tasks.asked(row, loop.questions, rng)]

        def batch(number: int) -> MllmInputs | None:
            at = (number * world + ranks.rank) * size
            found = self.prepared(order[at : at + size], ask)
            return found and found[0]

        numbers = iter(range(start, steps_per_epoch(len(rows), loop, ranks)))
        with ThreadPoolExecutor(loop.workers) as pool:
            waiting = deque(pool.submit(batch, n) for n in islice(numbers, 2 * loop.workers))
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(batch, n) for n in islice(numbers, 1))
                yield done


def steps_per_epoch(items: int, loop: PretrainLoop, ranks: Ranks) -> int:
    """Whole batches of all ranks in an epoch; the few items behind the last one wait for another epoch's order.

    Raises InputError if there is not even one.
    """
    whole = loop.batch_size * ranks.world_size
    if items < whole:
        raise InputError(f"{items} items to train on are fewer than one batch of {whole}; lower train.batch_size")
    return items // whole
