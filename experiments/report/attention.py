"""What a trained ranker looks at: for a few real users the pictures of their history, the target, and the weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import nn

from data.dataset import Dataset
from experiments.charts.xy import Curve, Plane, xy
from experiments.page import Exhibit, Part, Prose, Section
from experiments.report.neighbours import UNKNOWN, Stored
from experiments.report.pictures import Pictures, bar
from features.collate import Collator
from features.ranks import process_group
from features.samples import SampleEncoder
from ranker.build import load_ranker
from ranker.run_folder import RunFolder
from ranker.sequence_interest import SequenceInterest
from ranker.target_attention import DIN

USERS, SHOWN, MIN_BEHAVIOURS = 4, 8, 6
SAMPLES, BINS, DRAWS = 600, 8, 400


@dataclass(frozen=True)
class Looked:
    """What the attention of one sequence gave to the behaviours of some samples.

    Attributes:
        sequence: its name. row, user, item, label, score: (B,) of the samples. sample: (N,) the sample of each
            behaviour. behaviour: (N,) its item, oldest first. weight: (N,) its share of the sample's weights.
    """

    sequence: str
    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    score: np.ndarray
    sample: np.ndarray
    behaviour: np.ndarray
    weight: np.ndarray


def attends(run: RunFolder) -> bool:
    """Whether the run has an attention whose weights can be read."""
    recipe = run.recipe()
    kinds = {s.name: recipe.model.sequences.get(s.name) for s in recipe.features.sequences}
    return any(model is None or model.kind == "din" for model in kinds.values())


def look(run: RunFolder, dataset: Dataset, split: str, count: int) -> Looked | None:
    """Score samples that have a history and keep the weights of the first attention; None if there is no such row."""
    with process_group() as ranks:
        model, samples = load_ranker(run, dataset, ranks)
        frame = _samples(samples, dataset, split, count)
        if not len(frame):
            return None
        window = samples.window(frame)
        batch = Collator(samples).collate(window, np.arange(len(frame))).to(ranks.device)
        kept: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        hooks = [
            module.attention.register_forward_pre_hook(_keep(module.name, kept))
            for module in model.modules()
            if isinstance(module, SequenceInterest) and isinstance(module.attention, DIN)
        ]
        with torch.no_grad():
            score = torch.sigmoid(model(batch).double()).cpu().numpy()
        for hook in hooks:
            hook.remove()
        name, (sample, index, weight) = next(iter(kept.items()))
        items = batch.items.cpu().numpy()[index]
        label = frame["label"].to_numpy()
        return Looked(name, frame["user"].to_numpy(), frame["item"].to_numpy(), label, score, sample, items, weight)


def _keep(name: str, kept: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]):
    def keep(attention: nn.Module, args: tuple) -> None:
        assert isinstance(attention, DIN)
        weights = attention.weights(*args).detach().abs().double()
        s = args[0].sequence
        total = torch.zeros(len(s.lengths), dtype=torch.float64, device=weights.device).index_add(0, s.row, weights)
        share = weights / total.index_select(0, s.row).clamp(min=1e-12)
        kept[name] = (s.row.cpu().numpy(), s.item.cpu().numpy(), share.cpu().numpy())

    return keep


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


def section(
    run: RunFolder, dataset: Dataset, split: str, stores: Sequence[Stored], pictures: Pictures | None, mark: str
) -> Section | None:
    """What the run looks at; None where it has no readable attention or no sample has a history."""
    looked = look(run, dataset, split, SAMPLES) if attends(run) else None
    if looked is None:
        return None
    name, parts = run.meta()["name"], []
    about = (
        f"Attention of *{name}* over the sequence `{looked.sequence}`, on {split} rows. Weights are shares of a "
        "history's total; cosines are of the vectors, which the model need not have seen."
    )
    parts: list[Part] = [Prose((about,))]
    if stores:
        parts.append(_by_cosine(looked, stores))
    parts.append(_users(looked, stores, pictures))
    return Section(f"attention{mark}", "What it looks at", tuple(parts))


def _by_cosine(looked: Looked, stores: Sequence[Stored]):
    """Weight of a behaviour, relative to an even share, by its cosine with the target."""
    curves = []
    lengths = np.bincount(looked.sample, minlength=len(looked.item))
    lift = looked.weight * lengths[looked.sample]
    for stored in stores:
        cosine, known = _cosines(looked, stored)
        if not known.any():
            continue
        edges = np.unique(np.quantile(cosine[known], np.linspace(0, 1, BINS + 1)))
        place = np.clip(np.searchsorted(edges, cosine, side="right") - 1, 0, len(edges) - 2)
        counts, sums, places = (np.zeros((len(looked.item), len(edges) - 1)) for _ in range(3))
        np.add.at(counts, (looked.sample[known], place[known]), 1)
        np.add.at(sums, (looked.sample[known], place[known]), lift[known])
        np.add.at(places, (looked.sample[known], place[known]), cosine[known])
        rng = np.random.default_rng(3)
        weights = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), DRAWS)
        with np.errstate(invalid="ignore"):
            drawn = (weights @ sums) / (weights @ counts)
        low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
        x, y = places.sum(0) / counts.sum(0), sums.sum(0) / counts.sum(0)
        curves.append(Curve(stored.name, x.tolist(), y.tolist(), low.tolist(), high.tolist(), marks=True))
    note = "1 is an even share of the history. Bins of equally many behaviours; bands: 95 %, samples drawn again."
    plane = Plane("cosine with the target", "weight, relative to an even share", include_y=(1.0,))
    return xy("by-cosine", "Does attention go to what is alike?", plane, curves, note=note, full=True)


def _cosines(looked: Looked, stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """(N,) cosine of every behaviour with its target, and whether both have a vector."""
    mine, target = stored.unit(looked.behaviour), stored.unit(looked.item)
    known = (stored.item_rows[looked.behaviour] != UNKNOWN) & (stored.item_rows[looked.item] != UNKNOWN)[looked.sample]
    return (mine * target[looked.sample]).sum(1), known


def _users(looked: Looked, stores: Sequence[Stored], pictures: Pictures | None) -> Exhibit:
    cosines = {stored.name: _cosines(looked, stored) for stored in stores[:2]}
    chosen, users = [], set()
    for sample in range(len(looked.item)):
        if looked.user[sample] not in users and len(chosen) < USERS:
            chosen.append(sample)
            users.add(looked.user[sample])
    body, rows = "", []
    for sample in chosen:
        mine = np.flatnonzero(looked.sample == sample)
        top = np.sort(mine[np.argsort(-looked.weight[mine], kind="stable")[:SHOWN]])
        target = int(looked.item[sample])
        did = "was taken" if looked.label[sample] else "was passed by"
        told = (
            f"predicted {looked.score[sample]:.3f}, {did}; the {len(top)} heaviest of {len(mine)} behaviours hold "
            f"{looked.weight[top].sum():.0%} of the weight, oldest first"
        )
        tiles = ""
        for at in top:
            item, weight = int(looked.behaviour[at]), float(looked.weight[at])
            below = bar("weight", weight / looked.weight[top].max(), f"{weight:.0%}", 0)
            row = [int(looked.user[sample]), target, item, weight]
            for series, (name, (cosine, known)) in enumerate(cosines.items(), 1):
                below += bar(f"cosine, {name}", float(cosine[at]), f"{cosine[at]:.2f}", series) if known[at] else ""
                row.append(round(float(cosine[at]), 6) if known[at] else None)
            shown = pictures.html(item, below) if pictures else f'<span class="name">item {item}</span>{below}'
            tiles += f"<li>{shown}</li>"
            rows.append(tuple(row))
        card = pictures.html(target) if pictures else f'<span class="name">item {target}</span>'
        heading = f"<h4>User {looked.user[sample]}</h4><p class=note>{told}.</p>"
        tiles = f'<ul class="tiles">{tiles}</ul>'
        body += f'<div class="near user"><div class="tile target-tile">{card}</div><div>{heading}{tiles}</div></div>'
    keys = ["weight", *(f"cosine in {name}" for name in cosines)]
    key = "".join(f'<li class="s{i}"><span class="dot"></span>{k}</li>' for i, k in enumerate(keys))
    note = "Left what was shown, right what the user had done before that weighed most."
    columns = ("user", "target item", "behaviour item", "weight", *(f"cosine, {name}" for name in cosines))
    return Exhibit("users", "A few users", note, f'<ul class="key">{key}</ul>{body}', columns, tuple(rows))
