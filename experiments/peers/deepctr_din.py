"""DeepCTR-Torch's own DIN on exported rows; runs inside the peers' environment, never inside ours.

usage: python deepctr_din.py FOLDER BATCH_SIZE EPOCHS SEED      prints one JSON line
FOLDER is what `experiments.peers.rows` writes. The model and its training loop are DeepCTR-Torch's; sizes are those of
the shipped DIN recipe: dim 16, attention [64], tower [128, 64], 50 behaviours.
"""

import json
import os
import resource
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import torch
from sklearn.metrics import roc_auc_score

sys.modules["deepctr_torch.utils"] = unasked = ModuleType("deepctr_torch.utils")
unasked.check_version = lambda version: None  # else every import asks the network for a newer release, in a thread

from deepctr_torch.inputs import SparseFeat, VarLenSparseFeat  # noqa: E402
from deepctr_torch.models import DIN  # noqa: E402

LENGTH, DIM = 50, 16


def columns(folder: Path) -> list:
    """User, item, year, genres and the liked items as DeepCTR-Torch describes them; 0 is padding."""
    sizes = json.loads((folder / "sizes.json").read_text())
    single = [SparseFeat(name, sizes[name], DIM) for name in ("user", "item", "year")]
    genres = VarLenSparseFeat(SparseFeat("genres", sizes["genres"], DIM), sizes["genres_per_item"], "mean")
    liked = SparseFeat("hist_item", sizes["item"], DIM, embedding_name="item")
    return [*single, genres, VarLenSparseFeat(liked, LENGTH, length_name="seq_length")]


def inputs(folder: Path, split: str) -> tuple[dict, np.ndarray]:
    """Arrays by feature, and labels (n,)."""
    rows, items = pl.read_parquet(folder / f"{split}.parquet"), pl.read_parquet(folder / "items.parquet")
    of_item = items[rows["item_index"]]
    liked = pl.read_parquet(folder / "users.parquet")["full_item_seq"]
    starts = np.concatenate(([0], liked.list.len().cum_sum().to_numpy()))
    flat = liked.explode().drop_nulls().to_numpy()
    end = rows["seq_len"].to_numpy()
    length = np.minimum(end, LENGTH)
    place = np.arange(LENGTH)
    behaviour = (starts[rows["user_index"].to_numpy()] + end - length)[:, None] + place
    history = np.where(place < length[:, None], flat[np.minimum(behaviour, len(flat) - 1)], 0)
    found = {name: of_item[name].to_numpy() for name in ("item", "year")} | {"user": rows["user"].to_numpy()}
    found |= {"genres": np.stack(of_item["genres"].to_list()), "hist_item": history, "seq_length": length}
    return found, rows["label"].to_numpy().astype(np.float32)


def main(folder: Path, batch_size: int, epochs: int, seed: int) -> dict:
    """Train, then score valid and test."""
    torch.manual_seed(seed)
    model = DIN(
        columns(folder),
        ["item"],
        dnn_hidden_units=(128, 64),
        att_hidden_size=(64,),
        att_activation="relu",
        l2_reg_embedding=0.0,
        seed=seed,
        device="cpu",
    )
    model.compile(torch.optim.Adam(model.parameters(), lr=1e-3), "binary_crossentropy")
    rows, label = inputs(folder, "train")
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        with redirect_stdout(sys.stderr):
            model.fit(dict(rows), label, batch_size=batch_size, epochs=1, verbose=0)
        seconds.append(time.perf_counter() - started)
    figures = {
        "rows_per_second": len(label) / min(seconds),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    for split in ("valid", "test"):
        rows, label = inputs(folder, split)
        figures[f"{split}_auc"] = float(roc_auc_score(label, model.predict(rows, 10_000)[:, 0]))
    return figures


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))), flush=True)
