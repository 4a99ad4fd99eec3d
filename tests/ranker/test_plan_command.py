"""Plans for an absent cluster: sizes by hand, what fits, what does not and why."""

import json
from pathlib import Path

import pytest

import moon

RECIPE = Path(__file__).parents[2] / "experiments" / "configs" / "marketplace_cube.yaml"
SIZES = {"user": "1e6", "region": "100", "category": "1e4", "seller": "1e6", "query": "1e6", "content": "1e9:128:fp16"}


def plan(tmp_path: Path, *words: str, item: str = "10e9:16", world_size: int = 64, **others: str) -> tuple[int, list]:
    tables = [w for name, size in (SIZES | {"item": item} | others).items() for w in ("--table", f"{name}={size}")]
    command = ["plan", str(RECIPE), "--world-size", str(world_size), "--hbm-gib", "141", "--json", str(tmp_path / "p")]
    status = moon.main([*command, *tables, *words])
    return status, json.loads((tmp_path / "p").read_text())["variants"]


def test_ten_billion_items_over_64_ranks_at_several_widths(tmp_path, capsys):
    status, (narrow, wide) = plan(tmp_path, item="10e9:16,256")
    assert status == 1 and not narrow["problems"]
    item, content = narrow["tables"]["item"], narrow["tables"]["content"]
    assert item["kind"] == "row_wise" and item["shards"] == 64
    assert item["bytes"] == pytest.approx(10e9 * 16 * 4 * 2, rel=0.01)  # Adagrad: as much state as values
    assert content["bytes"] == pytest.approx(1e9 * 128 * 2, rel=0.01)  # frozen: no state
    assert max(narrow["rank_bytes"]) == pytest.approx(sum(t["bytes"] for t in narrow["tables"].values()) / 64, rel=0.02)
    assert 0 < max(narrow["rank_ms"]) < 100
    assert wide["problems"] == [
        "item: 10,000,000,000 x 256 fp32 is 9.31 TiB plus 9.31 TiB of adagrad state, the cluster has 7.49 TiB for "
        "tables; 100 dimensions would fit"
    ]
    assert "does not fit: item" in capsys.readouterr().out


def test_a_kind_that_cannot_hold_the_table_is_named(tmp_path):
    status, (found,) = plan(tmp_path, "--set", "sharding.kinds=[table_wise]", item="4e9:16", world_size=8)
    assert status == 1
    assert any("item: 4,000,000,000 x 16 fp32" in p and "allow row_wise" in p for p in found["problems"])
    assert any(p.startswith("content: 1,000,000,000 x 128 fp16 is 238.4 GiB, a shard of") for p in found["problems"])


def test_tables_that_fit_alone_but_not_together_say_so(tmp_path):
    big = {name: "3e8:128" for name in ("user", "seller", "query")}
    status, (found,) = plan(tmp_path, item="3e8:128", world_size=8, **big, content="1e6:8")
    assert status == 1 and len(found["problems"]) == 1
    assert found["problems"][0].startswith("all tables: 1.12 TiB with optimizer states, and buffers")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--table", "itm=3"], "--table itm: the recipe has no such table; it has user, region, item"),
        (["--table", "item=many"], "--table item=many: expected NAME=ROWS[:DIM,DIM...][:fp32|fp16|int8]"),
        (["--table", "item=10:6"], "--table item=10:6: a table needs a multiple of 4 dimensions"),
        (["--table", "item=10:8:int8"], "--table item: int8 tables cannot be trained"),
        (["--world-size", "0"], "--world-size and --hbm-gib must be above 0"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, capsys):
    command = ["plan", str(RECIPE), "--world-size", "8", "--hbm-gib", "141"]
    tables = [w for name, size in SIZES.items() for w in ("--table", f"{name}={size}")]
    assert moon.main([*command, *tables, *words]) == 2
    assert message in capsys.readouterr().err
    assert moon.main([*command, "--table", "content=10:8"]) == 2
    assert "rows of table 'user' are not known; give --data DIR or --table user=ROWS" in capsys.readouterr().err
