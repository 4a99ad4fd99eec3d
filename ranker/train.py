"""`moon train`: the loop from a recipe and a prepared dataset to a run directory."""

import math
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DMPCollection

from data.dataset import Dataset
from data.errors import InputError
from data.host import compute_threads, peak_rss_bytes
from features.batch import Batch
from features.encoder import FeatureEncoder
from features.ranks import Ranks, average_gradients
from features.samples import SampleEncoder
from features.vector_source import VectorSource
from ranker.build import build_ranker, parameter_counts, train_loader
from ranker.checkpoint import Checkpoints, Progress
from ranker.config import Recipe
from ranker.end_to_end import ItemEncoders, OpenEncoder
from ranker.evaluate import evaluate, valid_figures
from ranker.following import moved_sources, record_best, sources_at
from ranker.incremental import grown_encoder, take_over
from ranker.losses import click_loss
from ranker.make_training import pretrain
from ranker.metrics import is_better
from ranker.model import Ranker
from ranker.optimizer import Optimizers
from ranker.pipeline import pipelined
from ranker.run_folder import RunFolder
from ranker.sharding import describe
from ranker.start import judged_splits, require_both_classes, start_run, start_sources
from ranker.train_log import TrainLog


class Interrupted(Exception):
    """SIGTERM came; the state is saved."""


class Trainer:
    """One run: builds or restores its state and walks the batches."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        sources: dict[str, VectorSource],
        run: RunFolder,
        ranks: Ranks,
        encoders: ItemEncoders,
        previous: RunFolder | None = None,
    ) -> None:
        """`previous`: a run on earlier data to go on from."""
        self.recipe, self.dataset, self.run, self.ranks, self.encoders = recipe, dataset, run, ranks, encoders
        if threads := recipe.train.threads or compute_threads(recipe.train.loader_workers):
            torch.set_num_threads(threads)
        if recipe.train.follow_stores and (run.checkpoints / "last").exists():
            self.encoder = FeatureEncoder.load(run.encoder)  # its codebooks are of the first version
        elif previous is None:
            self.encoder = FeatureEncoder.fit(recipe.features, dataset, sources)
        else:
            self.encoder = grown_encoder(previous, recipe, dataset)
        self.best_sources = sources
        self._build(sources)
        self.checkpoints = Checkpoints(
            run.checkpoints,
            self.encoder.fingerprint,
            ranks,
            recipe.train.batch_size,
            encoders,
            recipe.train.async_checkpoints,
        )
        self.progress = Progress()
        self.log = TrainLog(run, ranks, self.loader, recipe.train.log_every, self.optimizers.total_steps)
        self._asked = self._stop = False

    def _build(self, sources: dict[str, VectorSource]) -> None:
        """All that depends on the versions of the stores, with initial weights."""
        recipe, encoders = self.recipe, self.encoders
        self.samples = SampleEncoder(self.encoder, self.dataset, sources)
        self.loader = train_loader(recipe, self.samples, self.ranks)
        self.model, self.plan = build_ranker(recipe, self.samples, self.ranks)
        if recipe.train.compile_head:
            cast(Ranker, self.model.module).head.compile(dynamic=True)
        total = recipe.train.epochs * self.loader.batches
        rates = cast(Ranker, self.model.module).rates() | encoders.rates()
        self.optimizers = Optimizers(self.model, recipe.train, total, rates, encoders.parameters())

    def resume(self) -> bool:
        """Continue from the last checkpoint, with the versions of the stores that it had; False if there is none."""
        if not self.checkpoints.has("last"):
            return False
        self._load_last()
        if self.recipe.train.follow_stores:
            sources = sources_at(self.run, self.progress.step, self.samples.vectors, self.dataset, self.ranks)
            if sources != self.samples.vectors:
                self._build(sources)
                self._load_last()
        return True

    def _load_last(self) -> None:
        self.optimizers.allocate()
        self.progress = self.checkpoints.load("last", self.model, self.optimizers.all)

    def _follow(self) -> bool:
        """After an evaluation: go on with newer versions of the stores; whether there were any."""
        if not self.recipe.train.follow_stores or self._over():
            return False
        sources = moved_sources(self.run, self.progress.step, self.samples.vectors, self.dataset, self.ranks)
        if sources is None:
            return False
        self.checkpoints.wait()
        self._build(sources)
        self._load_last()
        return True

    def load_best(self) -> None:
        """Take the best checkpoint back, with the versions of the stores that it had."""
        if self.best_sources != self.samples.vectors:
            self._build(self.best_sources)
        self.checkpoints.load("best", self.model)

    def fit(self) -> None:
        """Train to the end (or to patience's end). Raises Interrupted after SIGTERM, with the state saved."""
        if self.ranks.first:
            self.encoder.save(self.run.encoder)
            copied, world_size = list(cast(Ranker, self.model.module).tables.copies), self.ranks.world_size
            plan = describe(self.plan, self.encoder, self.samples.vectors, copied, world_size)
            print(f"tables over {world_size} rank(s):\n{plan}")
        previous = signal.signal(signal.SIGTERM, self._on_sigterm)
        log = self.log
        log.open(self.progress)
        try:
            if not self.progress.step:
                self.encoders.refresh(self.model)
                self._pretrain()
            elif self.progress.batch == 0 or self.progress.batch in self._evals():
                self._follow()
            while not self._over():
                self._train_and_judge(log)
            self.checkpoints.wait()
        except BaseException:
            self.checkpoints.leave()  # else a run that is resumed in this process writes where the thread still does
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
            log.close()

    def _pretrain(self) -> None:
        """What is trained before the model itself; each part goes on where it was left."""
        model = cast(Ranker, self.model.module)
        if not pretrain(model, self.recipe, self.samples, self.run, self.ranks, self._asked_to_stop):
            raise Interrupted("stopped by SIGTERM before the first step of the model; continue with --resume")

    def _train_and_judge(self, log: TrainLog) -> None:
        """Train up to the next evaluation, then evaluate."""
        progress, train = self.progress, self.recipe.train
        goal = min(batch for batch in self._evals() if batch > progress.batch)
        batches = islice(self.loader.epoch(progress.epoch, progress.batch), goal - progress.batch)
        self.model.train()
        with closing(self._steps(log.watched(batches))) as steps:
            for batch, loss in steps:
                progress.step, progress.batch = progress.step + 1, progress.batch + 1
                log.step(progress, loss, len(batch), self.optimizers.dense_rate)
                if progress.batch == goal:
                    break
                if self.encoders.due(progress.step):
                    self.encoders.refresh(self.model)
                if train.checkpoint_every and progress.step % train.checkpoint_every == 0:
                    self._save()
                self._stop_if_asked()
        self.encoders.refresh(self.model)
        self._evaluate(log, epoch_done=goal == self.loader.batches)
        if not self._over() and not self._follow():
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._stop:
            self._save()
            self.checkpoints.wait()
            raise Interrupted(f"stopped by SIGTERM after step {self.progress.step}; continue with --resume")

    def _evals(self) -> set[int]:
        """After which batches of an epoch the model is judged."""
        count = self.recipe.train.evals_per_epoch
        return {-(-self.loader.batches * (i + 1) // count) for i in range(count)}

    def _steps(self, batches: Iterator[Batch]) -> Generator[tuple[Batch, float], None, None]:
        """Train on each batch: the batch and its loss."""
        device, wanted = self.ranks.device, self.recipe.train.pipeline
        if device.type == "cuda" if wanted is None else wanted:
            yield from pipelined(cast(Ranker, self.model.module), device, batches, self._forward, self._update)
        else:
            for batch in batches:
                yield batch, self.train_step(batch)

    def train_step(self, batch: Batch) -> float:
        """One optimizer step; returns the mean loss over the rows of all ranks."""
        loss, value = self._forward(batch.to(self.ranks.device, non_blocking=True))
        loss.backward()
        self._update()
        return value

    def _forward(self, batch: Batch) -> tuple[Tensor, float]:
        """What this rank is to go backward from, and the mean loss over the rows of all ranks."""
        progress, device = self.progress, self.ranks.device
        self.optimizers.prepare(progress.step)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.train.bf16):
            logits = self.model(batch, self.encoders.encode(batch)) if self.encoders else self.model(batch)
        loss = click_loss(logits, batch.label)
        share = self.loader.share(progress.batch, len(batch))
        value = self._agreed(loss.item() * share)
        if not math.isfinite(value):
            raise InputError(self._save_batch(batch, value))
        return loss * share, value

    def _update(self) -> None:
        """After the backward pass, in which the tables were updated: the other parameters."""
        average_gradients(self.optimizers.averaged, self.ranks)
        self.optimizers.step()
        if isinstance(self.model, DMPCollection):
            self.model.sync()

    def _agreed(self, value: float) -> float:
        """The ranks' mean of `value`; if one of them was asked to stop, all of them stop after this step.

        A rank that is asked later than here stops after the next: it must not stop alone.
        """
        if self.ranks.world_size == 1:
            self._stop = self._asked
            return value
        facts = torch.tensor([value, float(self._asked)], dtype=torch.float64, device=self.ranks.device)
        dist.all_reduce(facts)
        self._stop = bool(facts[1] > 0)
        return facts[0].item() / self.ranks.world_size

    def _asked_to_stop(self) -> bool:
        """Whether any rank was asked to."""
        self._agreed(0.0)
        return self._stop

    def _evaluate(self, log: TrainLog, epoch_done: bool) -> None:
        """Judge on valid, keep the best, save; the open line of the log goes with the checkpoint."""
        progress = self.progress
        if epoch_done:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        found = valid_figures(self.model, self.samples, self.ranks)
        value = found[self.recipe.train.stop_metric]
        best = is_better(self.recipe.train.stop_metric, value, progress.best)
        progress.best = value if best else progress.best
        progress.evals_since_best = 0 if best else progress.evals_since_best + 1
        log.evaluation(progress, found, best, self.model)
        self._save(best)
        if best and self.recipe.train.follow_stores:
            self.best_sources = self.samples.vectors
            if self.ranks.first:
                record_best(self.run, self.best_sources)

    def _save(self, best: bool = False) -> None:
        self.checkpoints.save(self.model, self.optimizers.all, self.progress, best)

    def _over(self) -> bool:
        """Whether all epochs are done, or patience is at its end."""
        train, progress = self.recipe.train, self.progress
        out_of_patience = train.patience is not None and progress.evals_since_best >= train.patience
        return progress.epoch >= train.epochs or out_of_patience

    def _on_sigterm(self, *_: Any) -> None:
        self._asked = True

    def _save_batch(self, batch: Batch, value: float) -> str:
        path = self.run.root / f"bad-batch-rank{self.ranks.rank}.pt"
        torch.save({"row": batch.row.cpu(), "label": batch.label.cpu(), "dense": batch.dense.cpu()}, path)
        p = self.progress
        return (
            f"loss is {value} at step {p.step + 1} (epoch {p.epoch}, batch {p.batch}); its rows are in {path}; "
            "lower the learning rates (train.dense.lr, train.tables.lr) or look for wild values in dense features"
        )


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    ranks: Ranks,
    resume: bool = False,
    stores: dict[str, Path] | None = None,
    encoders: Mapping[str, OpenEncoder] | None = None,
    previous: RunFolder | None = None,
) -> dict[str, Any]:
    """Train a recipe into `out`, score valid and test with the best checkpoint; returns the test metrics.

    A dataset without test rows is scored on valid alone, and the valid metrics are returned.
    `stores`: representation stores by name; a run reads the newest version of each at its start, and keeps to it
    unless the recipe says train.follow_stores.
    `encoders`: of end_to_end vectors, by name, what gives the module; it ends as in the best checkpoint.
    `previous`: a run on earlier data whose model this one goes on from.
    Raises InputError for bad input or an `out` in use; Interrupted on SIGTERM.
    """
    run = RunFolder(out)
    started, cpu = time.monotonic(), time.process_time()
    require_both_classes(dataset)
    sources = start_sources(run, recipe, dataset, stores or {}, resume, ranks)
    trained = ItemEncoders(encoders or {}, sources, ranks)
    if resume and run.is_there():
        previous = RunFolder(path) if (path := run.meta().get("previous")) else None
    trainer = Trainer(recipe, dataset, sources, run, ranks, trained, previous)
    goes_on = start_run(run, recipe, dataset, sources, ranks, resume, trained.digests, previous)
    if not (goes_on and trainer.resume()) and previous is not None:
        trainer.optimizers.allocate()
        take_over(previous, trainer.encoder, trainer.model, trainer.optimizers.all)
    trainer.fit()
    trainer.load_best()
    found: dict[str, Any] = {}
    for split in judged_splits(dataset):
        found = evaluate(trainer.model, trainer.samples, split, run, ranks)
    if ranks.first:
        meta = run.meta()
        meta |= {
            "finished": True,
            "rows_per_second": trainer.log.rows_per_second,
            "steps": trainer.progress.step,
            "parameters": parameter_counts(trainer.model, trained),
            "peak_rss_bytes": peak_rss_bytes(),
        }
        meta |= {"seconds": meta.get("seconds", 0.0) + time.monotonic() - started}
        meta |= {"cpu_seconds": meta.get("cpu_seconds", 0.0) + time.process_time() - cpu}
        run.write_meta(meta)
    return found
