"""Fashion retrieval: the figures of the page's table, against the same by hand."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from data.dataset import Dataset
from experiments.fashion_retrieval import main
from moon_encoder.checkpoint import build_encoder, load_encoder, save_encoder
from moon_encoder.content import Content
from moon_encoder.forms import Catalogue, Contents
from moon_encoder.held_out import TEST, HeldOut
from moon_encoder.losses import unit
from tests.moon_encoder.conftest import TEXTS, mllm_config
from tests.moon_encoder.products import prepare_products

HELD_OUT = {"key": "title", "valid": 0.1, "test": 0.3}


def test_figures_are_means_over_encoders_of_searches_and_neighbours(tmp_path: Path, monkeypatch, capsys):
    data = prepare_products(tmp_path, items=50)
    words = ["fashion_retrieval", "--data", str(data), "--out", str(tmp_path / "found.json")]
    for seed in range(2):
        encoder = build_encoder(mllm_config(matryoshka=[8]), seed, texts=lambda: TEXTS)
        facts = {"config": {"held_out": HELD_OUT, "catalogue": {}}}
        save_encoder(encoder, tmp_path / f"s{seed}", "tiny", "posttrain-a", facts)
        words += ["--encoder", str(tmp_path / f"s{seed}")]
    monkeypatch.setattr(sys, "argv", words)
    main()
    found = json.loads((tmp_path / "found.json").read_text())
    items = Dataset(data).items().collect()
    mine = np.flatnonzero(HeldOut.model_validate(HELD_OUT).parts(items) == TEST)
    contents = Contents.of(Dataset(data), Catalogue())  # type: ignore[call-arg]
    titles, kinds = items["title"].to_numpy(), items["article_type"].to_numpy()
    across, nearest = [], []
    for seed in range(2):
        encoder = load_encoder(tmp_path / f"s{seed}")
        with torch.inference_mode():
            shown = [Content(image=contents.item_image(i)) for i in range(50)]
            images = unit(encoder(encoder.prepare(shown)))
            texts = unit(encoder(encoder.prepare([Content(str(t)) for t in titles])))
        scores = images[mine] @ texts.T
        wrong = torch.from_numpy(titles[mine][:, None] != titles[None])
        best = scores.masked_fill(wrong, -2).amax(1, keepdim=True)
        across.append(((scores >= best - 1e-6) & wrong).sum(1).numpy() < 10)
        alike = images[mine] @ images.T
        alike[torch.arange(len(mine)), torch.from_numpy(mine)] = -2
        nearest.append(kinds[alike.argmax(1).numpy()] == kinds[mine])
    whole = found["dims"]["32"]
    assert found["items"] == len(mine) == whole["image-title"]["queries"] and set(found["dims"]) == {"8", "32"}
    assert whole["title-image"]["queries"] == len(set(titles[mine])) and whole["title-image"]["gallery"] == 50
    np.testing.assert_allclose(whole["image-title"]["hr@10"]["value"], np.mean(across), atol=1e-9)
    np.testing.assert_allclose(whole["article_type by image"]["hr@1"]["value"], np.mean(nearest), atol=1e-9)
    np.testing.assert_allclose(whole["article_type by image"]["hr@1 by seed"], np.mean(nearest, axis=1), atol=1e-9)
    assert whole["image-title"]["categories"]["Apparel"]["queries"] == len(mine)
    assert "base_colour by title+image" in capsys.readouterr().out
