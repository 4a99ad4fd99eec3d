"""A version that is pretrained here: made once, then read; its start is the run's encoder."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from data.config import parse_config
from data.dataset import Dataset
from experiments.studies import versions
from experiments.studies.versions import Maker, VersionConfig
from features.ranks import process_group
from features.store import Store
from tests.moon_encoder.products import pretrain_recipe


def test_a_multimodal_llm_is_pretrained_once(market_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = pretrain_recipe(epochs=1)
    recipe |= {"tasks": [{"name": "title", "prompts": ["What is it?"], "answer": "{title}"}]}
    (tmp_path / "llm.yaml").write_text(yaml.safe_dump(recipe))
    version = parse_config({"name": "llm", "pretrain": "llm.yaml"}, VersionConfig, "test")
    with process_group() as ranks:
        maker = Maker(Dataset(market_root / "data"), tmp_path / "out", tmp_path, ranks, "test", 50)
        made = maker.make(version)
        monkeypatch.setattr(versions, "pretrain", lambda *_: pytest.fail("pretrained again"))
        (tmp_path / "out" / "llm" / "vectors.npz").unlink()
        again = maker.make(version)
        (tmp_path / "llm.yaml").write_text(yaml.safe_dump(recipe | {"name": "other"}))
        with pytest.raises(pytest.fail.Exception, match="pretrained again"):  # another recipe, another version
            (tmp_path / "out" / "llm" / "pretrain-s0" / "encoder" / "encoder.json").unlink()
            maker.make(version)
    assert made.present.all() and {"image", "text"} == set(made.queries)
    assert np.array_equal(made.items, again.items)
    assert Store(maker.store(version)).current.meta["dim"] == made.items.shape[1] == 32
