"""The page in a real browser: nothing overflows, no plot is empty, no label cut, no picture broken, no error."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

CHECK = """<script>
const bad = [];
addEventListener("error", (e) => bad.push("error " + e.message), true);
addEventListener("load", () => {
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) bad.push(`overflow ${root.scrollWidth} > ${innerWidth}`);
  for (const figure of document.querySelectorAll("figure.plot")) {
    const name = figure.getAttribute("aria-labelledby");
    const seen = [...figure.querySelectorAll("[role=img] svg")].filter((s) => getComputedStyle(s).display != "none");
    if (seen.length != 1) { bad.push(`${name}: ${seen.length} drawings`); continue; }
    const box = seen[0].getBoundingClientRect();
    const drawn = seen[0].querySelector(".mark, .line, .total");
    if (box.width < 200 || box.height < 60 || !drawn) bad.push(`${name}: empty`);
    if (/NaN|undefined|None/.test(seen[0].outerHTML)) bad.push(`${name}: not a number`);
    for (const text of seen[0].querySelectorAll("text")) {
      const at = text.getBoundingClientRect();
      if (at.left < box.left - 3 || at.right > box.right + 3 || at.top < box.top - 3 || at.bottom > box.bottom + 3)
        bad.push(`${name}: "${text.textContent}" is cut`);
    }
  }
  for (const image of document.images) if (!image.naturalWidth) bad.push("picture " + image.alt);
  top.document.title = JSON.stringify({bad, width: innerWidth, plots: document.querySelectorAll("figure.plot").length,
    dark: getComputedStyle(document.body).backgroundColor});
});
</script></head>"""
SIZES = {"laptop": (1280, 900), "phone": (390, 844), "paper": (688, 1017)}  # A4 less its margins


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory):
    """Runs headless Chromium with some options; returns what it printed. Skips where there is none."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine: the page is not looked at")
    profile = tmp_path_factory.mktemp("profile")

    def run(page: Path, size: tuple[int, int], dark: bool, *words: str) -> str:
        command = [path, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
        command += [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", *words]
        command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", page.as_uri()]
        home = os.environ | {"HOME": str(profile)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=home)
        assert done.returncode == 0, done.stderr
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize(("device", "dark"), [("laptop", False), ("phone", True), ("paper", False)])
def test_everything_fits_and_nothing_is_empty(chromium, page: Path, tmp_path: Path, device: str, dark: bool):
    width, height = SIZES[device]
    text = page.read_text().replace("@media print", "@media all" if device == "paper" else "@media print")
    inside = html.escape(text.replace("</head>", CHECK, 1))
    checked = tmp_path / "checked.html"  # in a frame: a window of its own is at least 500 pixels wide
    checked.write_text(f'<title></title><iframe width="{width}" height="{height}" srcdoc="{inside}"></iframe>')
    title = re.search(r"<title>(.*?)</title>", chromium(checked, (1400, 1000), dark, "--dump-dom"))
    assert title is not None
    found = json.loads(html.unescape(title[1]))
    assert found["bad"] == []
    assert found["width"] == width and found["plots"] > 12
    red = int(re.findall(r"\d+", found["dark"])[0])
    assert red < 60 if dark else red > 200


def test_a_picture_of_it_has_content_in_dark_and_it_prints(chromium, page: Path, tmp_path: Path):
    shot, paper = tmp_path / "shot.png", tmp_path / "page.pdf"
    chromium(page, (1280, 2000), True, f"--screenshot={shot}")
    image = Image.open(shot).convert("RGB")
    colours = image.getcolors(1 << 20)
    assert colours is not None and image.size == (1280, 2000)
    ground = max(colours)[1]
    assert isinstance(ground, tuple) and max(ground) < 60 and len(colours) > 50
    chromium(page, (1280, 2000), True, f"--print-to-pdf={paper}")
    assert paper.read_bytes().startswith(b"%PDF") and paper.stat().st_size > 50_000
