"""What a trained ranker weighs in a history: its attention over ids (SA-TA too), CUBE's W, the cosines of SimTier."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from data.dataset import Dataset
from features.collate import Collator
from features.ranks import process_group
from features.samples import SampleEncoder
from ranker.build import load_ranker
from ranker.content_config import Cube, SimTierHistogram
from ranker.cube import CubeExtractor, CubeOverSequence
from ranker.mechanism import Evidence
from ranker.model import Ranker
from ranker.run_folder import RunFolder
from ranker.sequence_interest import SequenceInterest
from ranker.similarity import Cosines
from ranker.target_attention import DIN, Behaviours, MultiHeadTargetAttention

MIN_BEHAVIOURS = 6
ATTENTIONS = {"din": "DIN", "mha": "multi-head attention"}


@dataclass(frozen=True)
class Looked:
    """What a ranker made of the behaviours of one sequence, for some samples.

    Attributes:
        sequence: its name. user, item, label, score: (B,) of the samples. sample: (N,) the sample of each behaviour.
        behaviour: (N,) its item, oldest first. weights: by mechanism, (N,) each behaviour's share of its sample's
            weights. cosines: by the model's vectors, (N,) with the target as the model sees it, NaN where one of the
            two has none. counted: vectors whose cosines a histogram counts (SimTier).
    """

    sequence: str
    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    score: np.ndarray
    sample: np.ndarray
    behaviour: np.ndarray
    weights: dict[str, np.ndarray]
    cosines: dict[str, np.ndarray]
    counted: tuple[str, ...]


def mechanisms(run: RunFolder) -> dict[str, list[str]]:
    """What can be read of a run, in words, by sequence."""
    recipe, found = run.recipe(), {}
    for sequence in recipe.features.sequences:
        model, name, words = recipe.model.sequences.get(sequence.name), sequence.name, []
        kind = "din" if model is None else model.kind
        if kind in ATTENTIONS:
            fused = model is not None and model.similarity_attention
            words.append(f"SA-TA over {ATTENTIONS[kind]}" if fused else ATTENTIONS[kind])
        for content in recipe.model.content:
            if isinstance(content, Cube) and name in content.sequences:
                words.append("CUBE")
            if isinstance(content, SimTierHistogram) and content.sequence == name:
                words.append("SimTier")
        found |= {name: words} if words else {}
    return found


def look(run: RunFolder, dataset: Dataset, split: str, count: int) -> Looked | None:
    """Score up to `count` samples that have a history and read the sequence of which most can be read; None if no row
    has a history, or nothing can be read."""
    readable = mechanisms(run)
    if not readable:
        return None
    sequence = max(readable, key=lambda name: len(readable[name]))
    with process_group() as ranks:
        model, samples = load_ranker(run, dataset, ranks)
        frame = _samples(samples, dataset, split, count)
        if not len(frame):
            return None
        batch = Collator(samples).collate(samples.window(frame), np.arange(len(frame))).to(ranks.device)
        with torch.no_grad():
            ranker = next(module for module in model.modules() if isinstance(module, Ranker))
            evidence, score, weights = _read(ranker, sequence, lambda: torch.sigmoid(model(batch).double()))
            s = evidence.behaviours[sequence].sequence
            vectors = [name for name, spec in ranker.vectors.specs.items() if spec.of == "items"]
            cosines = {name: _known(evidence.cosines(name, sequence)) for name in vectors}
        user, item, label = (frame[name].to_numpy() for name in ("user", "item", "label"))
        return Looked(
            sequence,
            user,
            item,
            label,
            score.cpu().numpy(),
            s.row.cpu().numpy(),
            batch.items.cpu().numpy()[s.item.cpu().numpy()],
            {name: _share(weight, s.row, len(frame)) for name, weight in weights.items()},
            cosines,
            tuple(
                c.vectors
                for c in run.recipe().model.content
                if isinstance(c, SimTierHistogram) and c.sequence == sequence
            ),
        )


def _read(model: Ranker, sequence: str, score: Callable[[], Tensor]) -> tuple[Evidence, Tensor, dict[str, Tensor]]:
    """The evidence of a forward pass, what `score` gave, and the weights (N,) of every mechanism over the sequence."""
    interest = model.interests[sequence]
    assert isinstance(interest, SequenceInterest)
    seen: list[Evidence] = []
    asked: list[tuple[Behaviours, Tensor | None]] = []
    hooks = [
        interest.register_forward_pre_hook(lambda _, args: seen.append(args[0])),
        interest.attention.register_forward_pre_hook(lambda _, args: asked.append((args[0], _second(args)))),
    ]
    scored = score()
    for hook in hooks:
        hook.remove()
    evidence, weights = seen[0], {}
    if isinstance(interest.attention, DIN):
        weights[_titled(interest)] = interest.attention.weights(*asked[0]).abs()
    elif isinstance(interest.attention, MultiHeadTargetAttention):
        weights[_titled(interest)] = interest.attention.weights(*asked[0]).mean(1)
    for module in model.content:
        if isinstance(module, CubeExtractor) and sequence in module.sequences:
            weights["CUBE"] = _cube(module, evidence, sequence)
    return evidence, scored, weights


def _second(args: tuple) -> Tensor | None:
    return args[1] if len(args) > 1 else None


def _titled(interest: SequenceInterest) -> str:
    name = ATTENTIONS[interest.config.kind]
    return f"SA-TA over {name}" if interest.config.similarity_attention else name


def _cube(module: CubeExtractor, evidence: Evidence, sequence: str) -> Tensor:
    """W of every behaviour; with groups that of its own group."""
    part, found = module.parts[sequence], evidence.cosines(module.vectors, sequence)
    assert isinstance(part, CubeOverSequence)
    s = evidence.behaviours[sequence].sequence
    groups = [torch.ones_like(found.known)]
    if part.split_by is not None:
        groups = [s.numbers[part.split_by] > 0, s.numbers[part.split_by] <= 0]
    own = [part.weights(Cosines(found.values, found.known & group), s) * group for group in groups]
    return torch.stack(own).sum(0)


def _known(found: Cosines) -> np.ndarray:
    return np.where(found.known.cpu().numpy(), found.values.double().cpu().numpy(), np.nan)


def _share(weight: Tensor, row: Tensor, samples: int) -> np.ndarray:
    """Each behaviour's share of its sample's weights; 0 where they are all 0."""
    weight = weight.double()
    total = torch.zeros(samples, dtype=torch.float64, device=weight.device).index_add(0, row, weight)
    return (weight / total.index_select(0, row).clamp(min=1e-12)).cpu().numpy()


def _samples(samples: SampleEncoder, dataset: Dataset, split: str, count: int) -> pl.DataFrame:
    """Rows of a split with some history, drawn by chance, clicked ones first (half of them, if there are enough)."""
    keys = dataset.samples(split).select("user", "label", "history_end").with_row_index("row").collect()
    able = keys.filter(pl.col("history_end") >= MIN_BEHAVIOURS)
    drawn = able.sample(fraction=1.0, shuffle=True, seed=2)
    clicked, rest = drawn.filter(pl.col("label") == 1), drawn.filter(pl.col("label") == 0)
    half = min(len(clicked), count // 2)
    chosen = pl.concat([clicked.head(half), rest.head(count - half)])["row"]
    frame = dataset.samples(split).select(samples.read_columns).with_row_index("row")
    picked = frame.filter(pl.col("row").is_in(chosen.implode())).collect(engine="streaming")
    return chosen.to_frame().join(picked, on="row", how="left", maintain_order="left")
