"""Images from folders, tars and parquet: the same pixels by key, odd modes become RGB, damage is one line."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from pydantic import ValidationError

from data.errors import InputError
from data.images import ImageSource, ImageStore, check_image, load_image, load_image_noted, open_images

KINDS = ("dir", "tar", "parquet")


def png(value: int, size: tuple[int, int] = (6, 4)) -> bytes:
    """An image whose pixels are all (value, 10, 20)."""
    return encoded(Image.new("RGB", size, (value, 10, 20)))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_store(kind: str, root: Path, images: dict[str, bytes]) -> dict[str, str]:
    """The images as a folder, tar or parquet file; returns the description."""
    path = root / {"dir": "photos", "tar": "photos.tar", "parquet": "photos.parquet"}[kind]
    if kind == "dir":
        for key, data in images.items():
            (path / key).parent.mkdir(parents=True, exist_ok=True)
            (path / key).write_bytes(data)
    elif kind == "tar":
        with tarfile.open(path, "w") as tar:
            for key, data in images.items():
                member = tarfile.TarInfo(f"./{key}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        columns = {"image_key": list(images), "image": list(images.values())}
        pl.DataFrame(columns).write_parquet(path, row_group_size=16)
    return {"kind": kind, "path": str(path)}


def store(kind: str, root: Path, images: dict[str, bytes]) -> ImageSource:
    return open_images(write_store(kind, root, images))


@pytest.mark.parametrize("kind", KINDS)
def test_every_store_gives_the_same_pixels_by_key(tmp_path, kind):
    images = {f"{i % 3}/{i}.png": png(i) for i in range(50)}
    source = store(kind, tmp_path, images)
    assert sorted(source.keys()) == sorted(images)
    assert "1/1.png" in source and "1/2.png" not in source and None not in source

    def value(i: int) -> int:
        return np.asarray(load_image(source, f"{i % 3}/{i}.png"))[2, 3].tolist()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(value, reversed(range(50)))) == [[i, 10, 20] for i in reversed(range(50))]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_images_are_named(tmp_path, kind):
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")
    damaged = {"empty.jpg": b"", "text.jpg": b"<html>not found</html>", "cut.jpg": whole[: len(whole) // 2]}
    source = store(kind, tmp_path, {**damaged, "whole.jpg": whole})
    assert load_image(source, "whole.jpg").size == (64, 64)
    for key, what in {"empty.jpg": "is empty (0 bytes)", "text.jpg": "is corrupt: ", "cut.jpg": "is corrupt: "}.items():
        for read in (load_image, check_image):
            with pytest.raises(InputError) as error:
                read(source, key)
            assert f"{source.name}: image {key!r} {what}" in str(error.value) and "\n" not in str(error.value)
    check_image(source, "whole.jpg")
    with pytest.raises(InputError, match=r"photos.*: no image 'none.jpg'$"):
        load_image(source, "none.jpg")


@pytest.mark.parametrize(
    ("image", "options", "rgb"),
    [
        (Image.new("L", (2, 2), 77), {}, (77, 77, 77)),
        (Image.new("1", (2, 2), 1), {}, (255, 255, 255)),
        (Image.new("P", (2, 2), 0), {}, (0, 0, 0)),
        (Image.new("RGBA", (2, 2), (200, 0, 0, 0)), {}, (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (200, 0, 0, 255)), {}, (200, 0, 0)),
        (Image.new("LA", (2, 2), (30, 0)), {}, (255, 255, 255)),
        (Image.new("RGB", (2, 2), (1, 2, 3)), {"transparency": (1, 2, 3)}, (255, 255, 255)),
        (Image.fromarray(np.full((2, 2), 0x8040, np.uint16)), {}, (128, 128, 128)),
    ],
    ids=["grey", "bits", "palette", "clear", "opaque", "grey-clear", "colour-key", "16-bit"],
)
def test_odd_modes_become_rgb(tmp_path, image, options, rgb):
    loaded = load_image(store("dir", tmp_path, {"a.png": encoded(image, **options)}), "a.png")
    assert loaded.mode == "RGB" and np.asarray(loaded).reshape(-1, 3).tolist() == [list(rgb)] * 4


def test_cmyk_and_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    cmyk = encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "JPEG")
    source = store("tar", tmp_path, {"a.gif": gif, "a.jpg": cmyk})
    assert load_image(source, "a.gif").getpixel((0, 0)) == (255, 0, 0)
    black = load_image(source, "a.jpg")
    assert black.mode == "RGB" and max(black.getpixel((1, 1))) < 12  # pyright: ignore[reportArgumentType]


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    source = store("dir", tmp_path, {"a.png": png(1, (40, 30))})
    monkeypatch.setattr("data.images.MAX_PIXELS", 1_199)
    with pytest.raises(InputError, match=r"image 'a.png' has 40 x 30 pixels; at most 1,199 are read$"):
        load_image(source, "a.png")
    monkeypatch.setattr("data.images.MAX_PIXELS", 1_200)
    assert load_image(source, "a.png").size == (40, 30)


@pytest.mark.parametrize("key", ["../secret.png", "/etc/passwd", "a/../../secret.png", "a\0.png", "x" * 999])
def test_a_key_cannot_leave_the_folder(tmp_path, key):
    (tmp_path / "secret.png").write_bytes(png(1))
    source = store("dir", tmp_path, {"a/b.png": png(2)})
    assert key not in source
    with pytest.raises(InputError, match="no image"):
        source.read(key)


def test_links_in_the_folder_are_followed(tmp_path):
    source = store("dir", tmp_path, {"a/b.png": png(2)})
    (tmp_path / "elsewhere.png").write_bytes(png(9))
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    assert "link.png" in source and load_image(source, "a/../link.png").getpixel((0, 0)) == (9, 10, 20)


def test_stores_that_cannot_be_opened_are_one_line(tmp_path):
    write_store("tar", tmp_path, {"a.png": png(1)})
    write_store("parquet", tmp_path, {"a.png": png(1)})
    text, zipped = tmp_path / "text", tmp_path / "photos.tar.gz"
    text.write_text("nothing of the kind" * 99)
    with tarfile.open(zipped, "w:gz") as tar:
        tar.add(tmp_path / "photos.tar")
    parquet = str(tmp_path / "photos.parquet")
    expected = [
        ({"kind": "dir", "path": str(text)}, "no such folder of images"),
        ({"kind": "dir", "path": str(tmp_path / "none")}, "no such folder of images"),
        ({"kind": "tar", "path": str(tmp_path / "none")}, "no such tar of images"),
        ({"kind": "tar", "path": str(text)}, "not a readable uncompressed tar"),
        ({"kind": "tar", "path": str(zipped)}, "not a readable uncompressed tar"),
        ({"kind": "parquet", "path": str(tmp_path / "none")}, "no such file"),
        ({"kind": "parquet", "path": str(text)}, "not a readable parquet file"),
        ({"kind": "parquet", "path": parquet, "image": "img"}, "column 'img' is missing; did you mean 'image'?"),
    ]
    for spec, message in expected:
        with pytest.raises(InputError) as error:
            open_images(spec)
        assert spec["path"] in str(error.value) and message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValidationError):
        ImageStore.model_validate({"kind": "zip", "path": "a"})


def test_a_truncated_tar_names_the_image_that_is_cut_off(tmp_path):
    whole = png(1, (300, 300)) + b"\0" * 9000
    spec = write_store("tar", tmp_path, {"a.png": png(2), "b.png": whole})
    path = Path(spec["path"])
    source = open_images(spec)
    with path.open("r+b") as file:
        file.truncate(3_000)
    assert load_image(source, "a.png").size == (6, 4)
    with pytest.raises(InputError, match=r"image 'b.png' is cut off; the tar is truncated$"):
        source.read("b.png")
    with pytest.raises(InputError, match=r"photos.tar.*: .*(truncated|cut off|unexpected end)"):
        load_image(open_images(spec), "b.png")


def test_real_tars_are_read_in_place(shared):
    root = shared / "datasets"
    posters = open_images({"kind": "tar", "path": str(root / "movielens_posters" / "posters.tar")})
    keys = list(posters.keys())
    assert len(keys) == 13_067
    assert all(load_image(posters, key).width == 112 for key in keys[:: len(keys) // 40])
    products = open_images({"kind": "tar", "path": str(root / "fashion_products" / "images.tar")})
    ids = pl.read_parquet(root / "fashion_products" / "items.parquet")["item_id"]
    assert all(f"{i}.jpg" in products for i in ids) and load_image(products, f"{ids[5]}.jpg").size == (128, 128)


def test_what_was_lost_on_the_way_to_rgb_is_told(tmp_path):
    red = Image.new("RGB", (8, 8), "red")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg")
    red.convert("RGBA").save(tmp_path / "opaque.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 9)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    red.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    for mode in ("RGB", "L", "P", "1"):
        red.convert(mode).save(tmp_path / f"plain{mode}.png")
    source = open_images({"kind": "dir", "path": str(tmp_path)})
    told = {key: load_image_noted(source, key) for key in list(source.keys())}
    assert {image.mode for image, _ in told.values()} == {"RGB"}
    assert {key: note for key, (_, note) in told.items() if note} == {
        "cmyk.jpg": "CMYK converted to RGB",
        "clear.png": "transparency laid on white",
        "deep.png": "16 bits a channel reduced to 8",
        "moving.gif": "first of 2 frames",
    }
    assert told["moving.gif"][0].getpixel((0, 0))[0] > 200
