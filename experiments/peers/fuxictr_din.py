"""FuxiCTR's own DIN on exported rows; runs inside the peer's environment, never inside ours.

usage: python fuxictr_din.py FOLDER BATCH_SIZE EPOCHS SEED      prints one JSON line
FOLDER is what `experiments.peers.rows` writes. The model, its loader and its training loop are FuxiCTR's
(model_zoo.LongCTR); sizes are those of the shipped DIN recipe: dim 16, attention [64], tower [128, 64], 50 behaviours.
"""

import json
import os
import resource
import sys
import time
from collections import OrderedDict
from pathlib import Path

import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR.DIN.DIN import DIN
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader
from sklearn.metrics import roc_auc_score

LENGTH = 50


def feature_map(folder: Path) -> FeatureMap:
    """User, item, genres and year as FuxiCTR describes them."""
    sizes = json.loads((folder / "sizes.json").read_text())
    features = FeatureMap("rows", str(folder))
    features.features = OrderedDict(
        user_index={"type": "meta", "source": ""},
        item_index={"type": "meta", "source": ""},
        seq_len={"type": "meta", "source": ""},
        user={"type": "categorical", "source": "user", "padding_idx": 0, "vocab_size": sizes["user"]},
        item={"type": "categorical", "source": "item", "padding_idx": 0, "vocab_size": sizes["item"]},
        year={"type": "categorical", "source": "item", "padding_idx": 0, "vocab_size": sizes["year"]},
        genres={
            "type": "sequence",
            "source": "item",
            "padding_idx": 0,
            "vocab_size": sizes["genres"],
            "max_len": sizes["genres_per_item"],
            "feature_encoder": "layers.MaskedAveragePooling()",
        },
    )
    features.labels = ["label"]
    features.default_emb_dim = 16
    features.num_fields = features.get_num_fields()
    features.set_column_index()
    return features


def main(folder: Path, batch_size: int, epochs: int, seed: int) -> dict:
    """Train, then score valid and test."""
    seed_everything(seed)
    features = feature_map(folder)
    files = {"user_info": str(folder / "users.parquet"), "item_info": str(folder / "items.parquet"), "max_len": LENGTH}
    model = DIN(
        features,
        gpu=-1,
        dnn_hidden_units=[128, 64],
        dnn_activations="ReLU",
        attention_hidden_units=[64],
        attention_hidden_activations="ReLU",
        embedding_dim=16,
        learning_rate=1e-3,
        optimizer="adam",
        loss="binary_crossentropy",
        task="binary_classification",
        metrics=["AUC"],
        monitor="AUC",
        model_root=str(folder / "checkpoints"),
        verbose=0,
        early_stop_patience=epochs + 1,
    )
    loader = LongCTRDataLoader(features, str(folder / "train"), batch_size=batch_size, shuffle=True, **files)
    model._max_gradient_norm, model._eval_steps, model._total_steps = 10.0, 1 << 60, 0
    model._stop_training, model._batch_index = False, 0
    model.train()
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        model.train_epoch(loader)
        seconds.append(time.perf_counter() - started)
    figures = {
        "rows_per_second": loader.num_samples / min(seconds),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    for split in ("valid", "test"):
        rows = LongCTRDataLoader(features, str(folder / split), batch_size=10_000, shuffle=False, **files)
        scores = model.predict(rows)
        figures[f"{split}_auc"] = float(
            roc_auc_score(rows.dataset.darray[:, rows.dataset.column_index["label"]], scores)
        )
    return figures


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps(main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))), flush=True)
