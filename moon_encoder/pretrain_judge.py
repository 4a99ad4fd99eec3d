"""How well held-out products are described: perplexity of the answers, accuracy of the attributes."""

import math
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from features.ranks import Ranks
from moon_encoder.generation_tasks import Tasks
from moon_encoder.mllm import Mllm
from moon_encoder.pretrain_batches import QuestionBatches
from moon_encoder.pretrain_config import Judged


class Judge:
    """Judges an encoder on a fixed set of items; each rank takes a share of them."""

    def __init__(self, batches: QuestionBatches, rows: np.ndarray, majority: list[str], how: Judged, ranks: Ranks):
        """`rows`: item indices. `majority`: the most frequent answer of each task among the items trained on."""
        self.batches, self.rows, self.majority, self.how, self.ranks = batches, rows, majority, how, ranks

    @property
    def tasks(self) -> Tasks:
        """The tasks."""
        return self.batches.tasks

    @torch.no_grad()
    def perplexity(self) -> dict[str, Any]:
        """exp of the mean -log p of an answer token (teacher-forced), overall and by task, with the counts.

        Each task is asked by its first wording, alone behind the picture.
        """
        encoder = self._encoder()
        sums = torch.zeros(len(self.tasks.tasks), 2, dtype=torch.float64)
        for rows in self._parts(self.rows):
            found = self.batches.prepared(rows, lambda row: [*self._all(row).values()])
            if found is None:
                continue
            batch, kept = found
            losses, row, segment = (x.cpu() for x in encoder.answer_losses(batch.to(encoder.device)))
            asked = [list(self._all(int(r))) for r in kept]
            task = torch.tensor([asked[r][s - 1] for r, s in zip(row.tolist(), segment.tolist(), strict=True)])
            sums.index_add_(0, task, torch.stack([losses, torch.ones_like(losses)], dim=1).double())
        sums = self._summed(sums)
        total, tokens = sums.sum(0).tolist()
        tasks = {}
        for task, (nll, count) in zip(self.tasks.tasks, sums.tolist(), strict=True):
            if count:
                tasks[task.name] = {"perplexity": math.exp(nll / count), "tokens": int(count)}
        loss = total / tokens if tokens else math.nan
        return {"items": len(self.rows), "loss": loss, "perplexity": math.exp(loss), "tokens": int(tokens)} | {
            "tasks": tasks
        }

    @torch.no_grad()
    def accuracy(self) -> dict[str, dict[str, float]]:
        """Of each exact task: the share of items whose greedily generated answer is the catalogue's, letter by letter.

        With its Wilson 95 % interval, and `majority`: the share that the commonest answer would get.
        """
        from scipy.stats import binomtest

        encoder = self._encoder()
        out = {}
        for number, task in enumerate(self.tasks.tasks):
            if not task.exact:
                continue
            rows = self.rows[self.tasks.answers[self.rows, number] != ""]
            counts = torch.zeros(3, dtype=torch.float64)
            for part in self._parts(rows):
                found = self.batches.prepared(part, lambda row, n=number: [(self.tasks.question(row, n)[0], None)])
                if found is None:
                    continue
                batch, kept = found
                said = np.array(encoder.answers(batch.to(encoder.device), self.how.longest), dtype=object)
                right = self.tasks.answers[kept, number]
                counts += torch.tensor([(said == right).sum(), (right == self.majority[number]).sum(), len(kept)])
            hits, common, items = (int(n) for n in self._summed(counts))
            if items:
                interval = binomtest(hits, items).proportion_ci(0.95, "wilson")
                out[task.name] = {
                    "accuracy": hits / items,
                    "low": float(interval.low),
                    "high": float(interval.high),
                    "majority": common / items,
                    "items": items,
                }
        return out

    def _encoder(self) -> Mllm:
        encoder = self.batches.encoder
        encoder.eval()
        return encoder

    def _all(self, row: int) -> dict[int, tuple[str, str | None]]:
        """Every question that applies to an item, by task number."""
        return {int(t): self.tasks.question(row, int(t)) for t in np.flatnonzero(self.tasks.answers[row] != "")}

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """This rank's rows, in batches."""
        mine = rows[self.ranks.rank :: self.ranks.world_size]
        return [mine[at : at + self.how.batch_size] for at in range(0, len(mine), self.how.batch_size)]

    def _summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks."""
        if self.ranks.world_size > 1:
            values = values.to(self.ranks.device)
            dist.all_reduce(values)
        return values.cpu()
