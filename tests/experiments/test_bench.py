"""moon bench: figures of every part, and their comparison with a baseline of the same machine."""

import json

import pytest
import yaml

import moon
from tests.conftest import write_store
from tests.ranker.conftest import TINY

CUBE = {"kind": "cube", "vectors": "image", "sequences": ["rated"], "top": 2}


@pytest.fixture
def cube(tmp_path, small):
    """Words of a recipe with item vectors: config, data, store."""
    features = TINY["features"] | {"vectors": [{"name": "image"}]}
    recipe = TINY | {"features": features, "model": TINY["model"] | {"content": [CUBE]}}
    (tmp_path / "cube.yaml").write_text(yaml.safe_dump(recipe))
    store = write_store(tmp_path / "store", small)
    return [str(tmp_path / "cube.yaml"), "--data", str(small), "--store", str(store)]


def bench(tmp_path, *words: str) -> dict:
    path = tmp_path / f"{words[0]}.json"
    assert moon.main(["bench", *words, "--json", str(path)]) == 0
    return json.loads(path.read_text())["figures"]


def test_a_step_by_part_and_the_loader(cube, tmp_path):
    found = bench(tmp_path, "train", *cube, "--steps", "5")
    parts = ("waiting_for_data", "copy_to_the_device", "forward", "backward,_tables'_optimizers", "dense_optimizer")
    assert sum(found[f"{part}_ms"] for part in parts) == pytest.approx(found["step_ms"], rel=0.3)
    inner = [f"forward_of_{part}_ms" for part in ("tables", "head", "sequence_rated", "content_cube")]
    assert 0 < sum(found[name] for name in inner) < found["forward_ms"]
    assert found["rows_per_second"] > 0 and found["peak_rss_bytes"] > 0
    loader = bench(tmp_path, "loader", *cube, "--steps", "5")
    assert all(loader[f"workers{n}_rows_per_second"] > 0 for n in (0, 1, 2))


def test_the_similarity_kernel_against_its_floor(tmp_path):
    sizes = ["--batch", "8", "--behaviours", "5", "--dim", "16", "--rows", "100", "--distinct", "20"]
    found = bench(tmp_path, "similarity", *sizes)
    assert found["float16_floor_bytes"] == 40 * (16 * 2 + 16) + 2 * 8 * 16 * 4
    assert found["int8_floor_bytes"] == 40 * (16 + 16) + 2 * 8 * 16 * 4
    assert all(0 < found[f"{d}_forward_share_of_copy_bandwidth"] < 1 for d in ("float32", "float16", "int8"))
    assert 0 < found["products_forward_ms"] < found["products_forward_backward_ms"]


def test_metrics_and_their_baseline(tmp_path, capsys):
    words = ["metrics", "--rows", "20000", "--users", "500", "--slices", "2"]
    found = bench(tmp_path, *words)
    assert found["report_rows_per_second"] == pytest.approx(20000 / found["report_seconds"])
    before = json.loads((tmp_path / "metrics.json").read_text())
    before["figures"]["auc_seconds"] /= 1000
    (tmp_path / "before.json").write_text(json.dumps(before))
    capsys.readouterr()
    assert moon.main(["bench", *words, "--baseline", str(tmp_path / "before.json")]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert "x the baseline, worse" in lines["auc_seconds"] and lines["rows"].endswith("1.00 x the baseline")
    before["machine"]["cpu"] = "another"
    (tmp_path / "before.json").write_text(json.dumps(before))
    assert moon.main(["bench", *words, "--baseline", str(tmp_path / "before.json")]) == 2
    assert "figures do not compare" in capsys.readouterr().err
    assert moon.main(["bench", *words, "--baseline", str(tmp_path / "nothing")]) == 2
    assert moon.main(["bench", "metric"]) == 2
