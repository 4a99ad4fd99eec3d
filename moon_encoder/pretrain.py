"""Stage 1: a multimodal LLM learns the catalogue by generating it, -sum_t log p(y_t | picture, question, y_<t)."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json
from data.host import peak_rss_bytes
from features.ranks import Ranks, average_gradients
from moon_encoder.checkpoint import build_encoder, load_encoder, save_encoder
from moon_encoder.faults import Faults
from moon_encoder.forms import Contents
from moon_encoder.generation_tasks import Tasks
from moon_encoder.held_out import TEST, TRAIN, VALID
from moon_encoder.mllm import Mllm
from moon_encoder.mllm_inputs import MllmInputs
from moon_encoder.optimizer import Optimizer
from moon_encoder.pretrain_batches import QuestionBatches, steps_per_epoch
from moon_encoder.pretrain_config import Pretrain
from moon_encoder.pretrain_judge import Judge
from moon_encoder.run import Interrupted, Progress, RunFolder, StopSignal
from moon_encoder.run_checkpoint import Checkpoints
from moon_encoder.train_log import TrainLog


class Pretrainer:
    """One run: builds or restores its state and walks the batches."""

    def __init__(
        self, config: Pretrain, dataset: Dataset, run: RunFolder, ranks: Ranks, goes_on: bool, cache: Path | None
    ) -> None:
        self.config, self.run, self.ranks = config, run, ranks
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        items = dataset.items().collect()
        self.contents = Contents.of(dataset, config.catalogue)
        self.tasks = Tasks.of(config.tasks, items)
        self.parts = self._parts(config.held_out.parts(items))
        self.encoder = self._start(goes_on).to(ranks.device)
        faults = Faults(
            run.root / f"problems{f'-rank{ranks.rank}' if ranks.rank else ''}.jsonl", items["item_id"].to_list()
        )
        self.batches = QuestionBatches(self.encoder, self.contents, self.tasks, faults, cache)
        if ranks.first:
            self._tell_empty(faults)
        self.steps = steps_per_epoch(len(self.parts[TRAIN]), config.train, ranks)
        self.optimizer = Optimizer(config.train.optimizer, [self.encoder], config.train.epochs * self.steps)
        self.checkpoints = Checkpoints(run.checkpoints, ranks)
        self.progress = Progress()
        self.log = TrainLog(run, ranks, "items", config.train.log_every, config.train.epochs * self.steps)
        self.stop = StopSignal(ranks)

    def _parts(self, part: np.ndarray) -> dict[int, np.ndarray]:
        """Indices of the items with a picture and an answer, by part."""
        usable = self.contents.has("image") & (self.tasks.answers != "").any(1)
        found = {number: np.flatnonzero(usable & (part == number)) for number in (TRAIN, VALID, TEST)}
        for number, name in ((TRAIN, "train on"), (VALID, "tune on (held_out.valid)"), (TEST, "test on")):
            if not len(found[number]):
                raise InputError(f"{self.contents.dataset.root}: no item with a picture and an answer to {name}")
        return found

    def _start(self, goes_on: bool) -> Mllm:
        """A new encoder, kept in the run's folder from the start on; the one that is there if the run goes on."""
        config = self.config
        if not (goes_on and (self.run.encoder / "encoder.json").is_file()):
            texts = self.tasks.texts(self.parts[TRAIN])
            encoder = build_encoder(config.encoder, config.seed, lambda: texts)
            if self.ranks.first:
                save_encoder(encoder, self.run.encoder, config.name, "initial")
        if self.ranks.world_size > 1:
            dist.barrier()
        encoder = load_encoder(self.run.encoder)
        assert isinstance(encoder, Mllm)
        return encoder

    def _tell_empty(self, faults: Faults) -> None:
        """Report the items that lack what a task needs, by item."""
        key = self.config.catalogue.image
        for row in np.flatnonzero(~self.contents.has("title")):
            faults.add(int(row), "title", "empty")
        for row in np.flatnonzero(~self.contents.has("image")):
            faults.add(int(row), "image", f"none, or {key} is not in the dataset's image stores")

    def judge(self, part: int, most: int) -> Judge:
        """Of at most `most` items of a part, drawn by seed."""
        rows = np.random.default_rng([self.config.seed, 3, part]).permutation(self.parts[part])[:most]
        majority = self.tasks.majority(self.parts[TRAIN])
        return Judge(self.batches, np.sort(rows), majority, self.config.judged, self.ranks)

    def trained_weights(self) -> int:
        """How many weights take a gradient."""
        return sum(p.numel() for p in self.encoder.parameters() if p.requires_grad)

    def resume(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        if self.checkpoints.has("last"):
            self.progress = self.checkpoints.load("last", {"encoder": self.encoder}, {}, self.optimizer.inner)

    def fit(self) -> None:
        """Train to the end (or to patience's end). Raises Interrupted after SIGTERM, with the state saved."""
        if self.ranks.first:
            counts = ", ".join(f"{n} {len(self.parts[p]):,}" for n, p in (("train", 0), ("valid", 1), ("test", 2)))
            print(f"items: {counts}; {len(self.tasks.tasks)} tasks; {self.trained_weights():,} weights trained")
        self.log.open(self.progress)
        try:
            with self.stop.watched():
                while self.progress.epoch < self.config.train.epochs and not self._out_of_patience():
                    self._epoch()
        finally:
            self.log.close()

    def _epoch(self) -> None:
        progress, loop, steps = self.progress, self.config.train, self.steps
        evals = {-(-steps * (i + 1) // loop.evals_per_epoch) for i in range(loop.evals_per_epoch)}
        rows, seed = self.parts[TRAIN], self.config.seed
        for batch in self.batches.epoch(rows, loop, self.ranks, seed, progress.epoch, progress.batch):
            loss, more = self._step(batch)
            progress.step, progress.batch = progress.step + 1, progress.batch + 1
            self.log.step(progress, loss, loop.batch_size * self.ranks.world_size, more)
            if progress.batch in evals:
                self._evaluate(epoch_done=progress.batch == steps)
                if self._out_of_patience():
                    return
            elif loop.checkpoint_every and progress.step % loop.checkpoint_every == 0:
                self._save()
            if self.stop.asked():
                self._save()
                raise Interrupted(f"stopped by SIGTERM after step {progress.step}; continue with --resume")

    def _step(self, batch: MllmInputs | None) -> tuple[float, dict[str, float]]:
        """One optimizer step; returns the mean loss of an answer token over all ranks, and further numbers."""
        self.encoder.train()
        losses = torch.zeros(0, device=self.ranks.device)
        if batch is not None:
            losses, *_ = self.encoder.answer_losses(batch.to(self.ranks.device))
        sums = torch.stack([losses.detach().sum(), losses.new_tensor(len(losses))]).double()
        if self.ranks.world_size > 1:
            dist.all_reduce(sums)
        total, tokens = sums.tolist()
        if len(losses):
            (losses.sum() * (self.ranks.world_size / tokens)).backward()
        average_gradients(self.encoder.parameters(), self.ranks)
        rate, norm = self.optimizer.step(self.progress.step)
        loss = total / max(tokens, 1)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise InputError(
                f"loss {loss} and gradient norm {norm} at step {self.progress.step + 1}; lower train.optimizer.lr"
            )
        return loss, {"lr": rate, "gradient_norm": norm, "answer_tokens": tokens}

    def _evaluate(self, epoch_done: bool) -> None:
        """Judge on valid, keep the best, save."""
        started, progress = time.monotonic(), self.progress
        if epoch_done:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        found = self.judge(VALID, self.config.judged.valid_items).perplexity()
        value = found["perplexity"]
        best = progress.best is None or value < progress.best
        progress.best = value if best else progress.best
        progress.evals_since_best = 0 if best else progress.evals_since_best + 1
        shown = {"perplexity": value} | {f"perplexity {name}": t["perplexity"] for name, t in found["tasks"].items()}
        self.log.evaluation(progress, shown, best, time.monotonic() - started)
        self._save(best)

    def _save(self, best: bool = False) -> None:
        self.checkpoints.save({"encoder": self.encoder}, {}, self.optimizer.inner, self.progress, best)

    def _out_of_patience(self) -> bool:
        patience = self.config.train.patience
        return patience is not None and self.progress.evals_since_best >= patience


def pretrain(
    config: Pretrain, dataset: Dataset, out: Path, ranks: Ranks, resume: bool, cache: Path | None = None
) -> dict[str, Any]:
    """Train an encoder into `out`; returns the figures of the best one on test.

    `cache`: folder for what a frozen part makes of pictures.

    Raises InputError for bad input or an `out` in use; Interrupted on SIGTERM.
    """
    started = time.monotonic()
    run = RunFolder(out)
    goes_on = run.open(config, {"dataset": dataset.fingerprint}, ranks, resume)
    trainer = Pretrainer(config, dataset, run, ranks, goes_on, cache)
    if goes_on:
        trainer.resume()
    trainer.fit()
    best = trainer.checkpoints.load("best", {"encoder": trainer.encoder})
    judge = trainer.judge(TEST, config.judged.test_items)
    test = judge.perplexity()
    for name, accuracy in judge.accuracy().items():
        test["tasks"][name] |= accuracy
    found = {
        "test": test,
        "best_step": best.step,
        "steps": trainer.progress.step,
        "items_per_second": trainer.log.per_second,
        "seconds": time.monotonic() - started,
        "peak_rss_bytes": peak_rss_bytes(),
        "weights": sum(p.numel() for p in trainer.encoder.parameters()),
        "trained_weights": trainer.trained_weights(),
        "items": {
            name: len(trainer.parts[part]) for name, part in (("train", TRAIN), ("valid", VALID), ("test", TEST))
        },
        "problems": trainer.batches.faults.counts(),
    }
    if ranks.first:
        facts = {"dataset": dataset.fingerprint, "steps": best.step, "test": test}
        facts |= {"config": config.model_dump(mode="json")}
        save_encoder(trainer.encoder, run.encoder, config.name, "pretrain", facts)
        write_json(run.figures, found)
    return found


def table(found: dict[str, Any]) -> str:
    """The figures as text: perplexity and accuracy by task."""
    test = found["test"]
    lines = [
        f"test: {test['items']:,} items, perplexity {test['perplexity']:.3f} over {test['tokens']:,} answer tokens"
    ]
    for name, task in test["tasks"].items():
        line = f"  {name:<16} perplexity {task['perplexity']:8.3f}"
        if "accuracy" in task:
            line += f"   accuracy {task['accuracy']:.3f} [{task['low']:.3f}, {task['high']:.3f}]"
            line += f"   commonest answer {task['majority']:.3f}"
        lines.append(line)
    told = ", ".join(f"{field} {count:,}" for field, count in found["problems"].items())
    lines += [f"items with a problem (problems.jsonl): {told}"] if told else []
    return "\n".join(lines)
