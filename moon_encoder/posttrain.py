"""Post-training: the loop that turns an encoder into one whose nearest items are what people did after searching."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json
from data.host import peak_rss_bytes
from features.ranks import Ranks, average_gradients
from moon_encoder.checkpoint import save_encoder
from moon_encoder.contrast import Contrast, Vectors, prefix_weights
from moon_encoder.dual_tower import DualTower
from moon_encoder.encoder import Encoder
from moon_encoder.faults import Faults, leave_out_unreadable
from moon_encoder.forms import Contents
from moon_encoder.grad_cache import backward
from moon_encoder.held_out import TRAIN
from moon_encoder.mix import Kind, divide, load_sources
from moon_encoder.momentum import Momentum
from moon_encoder.negatives import Earlier, Queue
from moon_encoder.optimizer import Optimizer
from moon_encoder.pairs import Pairs
from moon_encoder.posttrain_batches import Batch, PairBatches
from moon_encoder.posttrain_config import Posttrain
from moon_encoder.refine import cleaned
from moon_encoder.run import Interrupted, Progress, RunFolder, StopSignal
from moon_encoder.run_checkpoint import Checkpoints
from moon_encoder.shown import Shown
from moon_encoder.train_log import TrainLog
from moon_encoder.valid_search import SearchTask
from moon_encoder.whiten import fit_whitening


class Posttrainer:
    """One run: builds or restores its state and walks the batches."""

    def __init__(
        self,
        config: Posttrain,
        dataset: Dataset,
        encoder: Encoder,
        run: RunFolder,
        ranks: Ranks,
        cache: Path | None,
        new: bool = False,
    ) -> None:
        """`new`: the encoder has not been trained here before, so that what is fitted to the data is still to be."""
        self.config, self.run, self.ranks = config, run, ranks
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        self.encoder = encoder.to(ranks.device)
        self.contents = Contents.of(dataset, config.catalogue)
        items = dataset.items().collect()
        parts = config.held_out.parts(items)
        faults = Faults(run.root / "problems.jsonl", items["item_id"].to_list())
        leave_out_unreadable(self.contents, faults, ranks)
        self.shown = Shown(self.contents, self.encoder, config.views, config.seed, cache)
        self.searches = [
            SearchTask.of(search, self.shown, parts, config.co_occurrence, "valid", config.seed)
            for search in config.valid
        ]
        self.data: dict[str, Any] = {"problems": faults.counts()}
        if new and isinstance(encoder, DualTower) and encoder.vision and encoder.vision.config.whiten:
            self.data["whitened_on"] = fit_whitening(encoder, self.shown, parts == TRAIN)
        kinds = self._kinds(parts == TRAIN)
        self.batches = PairBatches(config, kinds, self.shown, parts == TRAIN, ranks)
        self.names = [kind.name for kind, _ in kinds]
        self._tell(kinds, parts)
        weights = prefix_weights(config.objective, encoder.dim, encoder.matryoshka)
        self.contrast = Contrast(config.objective, config.negatives, config.triplet, weights).to(ranks.device)
        self.queues = self._queues(kinds)
        self.slow = Momentum(self.encoder, config.negatives.momentum) if self.queues else None
        self.modules: dict[str, nn.Module] = {"encoder": self.encoder, "contrast": self.contrast}
        self.total = config.train.epochs * len(self.batches)
        self.optimizer = Optimizer(config.train.optimizer, self.modules.values(), self.total)
        self.checkpoints = Checkpoints(run.checkpoints, ranks)
        self.progress = Progress()
        self.log = TrainLog(run, ranks, "pairs", config.train.log_every, self.total)
        self.stop = StopSignal(ranks)

    def _kinds(self, allowed: np.ndarray) -> list[tuple[Kind, list[Pairs]]]:
        """The kinds of pairs to train on, cleaned if the config says so."""
        config, counts = self.config, []
        sources = load_sources(config.mix, self.contents, config.co_occurrence, config.seed, config.actions)
        if config.cleaning is not None:
            for source, pairs in sources.items():
                sources[source], found = cleaned(pairs, config.mix, config.cleaning, self.shown, allowed, config.seed)
                counts += found
        if self.ranks.first:
            print(*(f"cleaning {c.line()}" for c in counts), sep="\n", end="\n" if counts else "")
        kinds, notes = divide(sources, config.mix, self.contents, allowed)
        self.data |= {"notes": notes, "cleaning": [vars(c) for c in counts]}
        return kinds

    def _tell(self, kinds: list[tuple[Kind, list[Pairs]]], parts: np.ndarray) -> None:
        counts, order = np.bincount(parts, minlength=3), self.batches.order
        held = dict(zip(("train", "valid", "test"), counts.tolist(), strict=True))
        mix = [
            {"kind": kind.name, "share": int(n) / order.steps, "pairs": {p.source: len(p) for p in sources}}
            for (kind, sources), n in zip(kinds, order.counts, strict=True)
        ]
        self.data |= {"items": held, "mix": mix, "steps_per_epoch": order.steps}
        if self.ranks.first:
            print(*self.data["notes"], sep="\n", end="\n" if self.data["notes"] else "")
            for field, count in self.data["problems"].items():
                print(f"{field}: {count:,} cannot be read and are left out (problems.jsonl)")
            print(f"items by the held-out rule: {', '.join(f'{name} {n:,}' for name, n in held.items())}")
            for m in mix:
                sources = ", ".join(f"{name} {n:,}" for name, n in m["pairs"].items())
                print(f"mix {m['share']:6.1%}  {m['kind']:<28} pairs: {sources}")

    def _queues(self, kinds: list[tuple[Kind, list[Pairs]]]) -> dict[str, Queue]:
        """One queue for each form of items: the vectors of another form are no fair negatives."""
        config = self.config
        if not config.negatives.queue:
            return {}
        world = self.ranks.world_size if config.negatives.spatial else 1
        size = config.negatives.queue * config.train.batch_size * (1 + config.negatives.hard) * world
        forms = sorted({kind.item for kind, _ in kinds})
        return {form: Queue(size, self.encoder.dim).to(self.ranks.device) for form in forms}

    def resume(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        if self.checkpoints.has("last"):
            self.progress = self.checkpoints.load("last", self.modules, self._own(), self.optimizer.inner)

    def fit(self) -> None:
        """Train to the end (or to patience's end). Raises Interrupted after SIGTERM, with the state saved."""
        self.log.open(self.progress)
        try:
            with self.stop.watched():
                if not self.checkpoints.has("last"):
                    self._evaluate()
                while self.progress.epoch < self.config.train.epochs and not self._out_of_patience():
                    self._epoch()
        finally:
            self.log.close()

    def _epoch(self) -> None:
        progress, train = self.progress, self.config.train
        self.encoder.train()
        for batch in self.batches.epoch(progress.epoch, progress.batch):
            loss, more = self._step(batch)
            progress.step, progress.batch = progress.step + 1, progress.batch + 1
            self.log.step(progress, loss, self.batches.size, more)
            if progress.batch == len(self.batches):
                progress.epoch, progress.batch = progress.epoch + 1, 0
                self._evaluate()
            elif train.checkpoint_every and progress.step % train.checkpoint_every == 0:
                self._save()
            if self.stop.asked():
                self._save()
                raise Interrupted(f"stopped by SIGTERM after step {progress.step}; continue with --resume")
            if progress.batch == 0:
                return

    def _step(self, batch: Batch) -> tuple[float, dict[str, float]]:
        """One optimizer step; returns this rank's loss and further numbers."""
        kind, _ = self.batches.kinds[batch.kind]
        queue = self.queues.get(kind.item)
        device = self.ranks.device
        parts = [batch.query, batch.item, *([batch.lost] if batch.lost is not None else [])]
        parts = [part.to(device) for part in parts]
        labels, lost_row = batch.labels.to(device), batch.lost_row.to(device)
        keys = earlier = None
        if queue is not None and self.slow is not None:
            keys = self.slow(self.encoder, parts[1], self.config.train.grad_cache)
            earlier = Earlier(queue.block(), keys[: len(batch.query)])

        def loss_of(vectors: list[torch.Tensor]) -> torch.Tensor:
            lost = vectors[2] if batch.lost is not None else None
            return self.contrast.loss(Vectors(vectors[0], vectors[1], labels, lost, lost_row), earlier)

        loss = backward(self.encoder, parts, loss_of, self.config.train.grad_cache)
        value = float(loss)
        average_gradients([*self.encoder.parameters(), *self.contrast.parameters()], self.ranks)
        rate, norm = self.optimizer.step(self.progress.step)
        if not np.isfinite(norm) or not np.isfinite(value):
            raise InputError(
                f"loss {value} and gradient norm {norm} at step {self.progress.step + 1} ({kind.name}); lower "
                "train.optimizer.lr"
            )
        if queue is not None and self.slow is not None and keys is not None:
            queue.push(self.contrast.queued(keys, labels))
            self.slow.follow(self.encoder)
        return value, {"lr": rate, "gradient_norm": norm, "scale": float(self.contrast.temperature().detach())}

    def _evaluate(self) -> None:
        """Judge on valid, keep the best, save."""
        started, progress = time.monotonic(), self.progress
        found: dict[str, float] = {}
        for task in self.searches:
            figures = task.figures(self.shown)
            keys = (self.config.train.stop_metric, "hr@1", "hr@10", "mrr", "gallery")
            found |= {f"{task.search.name} {key}": figures[key] for key in keys}
        value = found[f"{self.searches[0].search.name} {self.config.train.stop_metric}"]
        best = progress.best is None or value > progress.best
        progress.best = value if best else progress.best
        progress.evals_since_best = 0 if best else progress.evals_since_best + 1
        self.log.evaluation(progress, found, best, time.monotonic() - started)
        self._save(best)

    def _save(self, best: bool = False) -> None:
        self.checkpoints.save(self.modules, self._own(), self.optimizer.inner, self.progress, best)

    def _own(self) -> dict[str, nn.Module]:
        """What this rank keeps beside the trained weights."""
        own: dict[str, nn.Module] = dict(self.queues)
        if self.slow is not None:
            own["slow"] = self.slow
        return own

    def _out_of_patience(self) -> bool:
        patience = self.config.train.patience
        return patience is not None and self.progress.evals_since_best >= patience


def posttrain(
    config: Posttrain,
    dataset: Dataset,
    encoder: Encoder,
    start: dict[str, Any],
    out: Path,
    ranks: Ranks,
    resume: bool,
    cache: Path | None,
) -> dict[str, Any]:
    """Train an encoder into `out`; returns the figures of the best one. `start`: facts of the encoder it begins with.

    Raises InputError for bad input or an `out` in use; Interrupted on SIGTERM.
    """
    started = time.monotonic()
    run = RunFolder(out)
    facts = {"dataset": dataset.fingerprint, "init": start["fingerprint"]}
    goes_on = run.open(config, facts, ranks, resume)
    trainer = Posttrainer(config, dataset, encoder, run, ranks, cache, new=start["stage"] == "initial")
    if goes_on:
        trainer.resume()
    trainer.fit()
    best = trainer.checkpoints.load("best", trainer.modules)
    valid = {task.search.name: task.figures(trainer.shown) for task in trainer.searches}
    found = {
        "valid": valid,
        "best_step": best.step,
        "steps": trainer.progress.step,
        "pairs_per_second": trainer.log.per_second,
        "seconds": time.monotonic() - started,
        "peak_rss_bytes": peak_rss_bytes(),
        **trainer.data,
    }
    if ranks.first:
        facts |= {"valid": valid, "steps": best.step, "config": config.model_dump(mode="json")}
        encoder.eval()
        save_encoder(encoder, run.encoder, config.name, f"posttrain-{config.stage}", facts)
        write_json(run.figures, found)
    return found
