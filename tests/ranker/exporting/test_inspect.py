"""moon inspect of an exported model."""

import json
import shutil

import moon


def test_what_an_export_holds_and_what_should_worry(exported, tmp_path, capsys):
    model = shutil.copytree(exported.package, tmp_path / "model", symlinks=True)
    shutil.copytree(model / "v00000001", model / "v00000002", ignore=lambda *_: ["item.npy"])
    assert moon.main(["inspect", str(model), "--json", str(tmp_path / "f.json")]) == 0
    text, found = capsys.readouterr().out, json.loads((tmp_path / "f.json").read_text())
    assert "exported model export, version 1 of v00000001, v00000002" in text
    assert found["tables"] == "float32" and found["devices"] == ["cpu"] and found["inputs"]["user"] == "INT64 one"
    assert "agreement: aoti on cpu: 187 rows" in text and "vectors image: 8 dimensions of encoder random" in text
    assert any("not to be rolled back to" in w and "item.npy: is missing" in w for w in found["warnings"])
    assert moon.main(["inspect", str(model / "v00000001")]) == 0
    assert "version 1 of" in capsys.readouterr().out
