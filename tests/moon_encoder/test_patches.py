"""Patches against transformers' own image processor."""

import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from data.errors import InputError
from moon_encoder.patches import PatchGrid
from tests.moon_encoder.conftest import picture

SIZES = [(128, 128), (40, 56), (300, 90), (17, 200), (31, 33), (1000, 700), (5, 5)]


def reference(grid: PatchGrid) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        patch_size=grid.patch,
        merge_size=grid.merge,
        temporal_patch_size=grid.temporal,
        size={"shortest_edge": grid.least, "longest_edge": grid.most},
        image_mean=list(grid.mean),
        image_std=list(grid.std),
    )


@pytest.mark.parametrize("grid", [PatchGrid(), PatchGrid(patch=14, most=100 * 100, mean=(0.5, 0.4, 0.3))])
@pytest.mark.parametrize("size", SIZES)
def test_the_numbers_of_the_classes_own_processor(grid, size):
    image = picture(1, size)
    expected = reference(grid)(images=[image], return_tensors="pt")
    patches, shape = grid.cut(image)
    assert [1, *shape] == expected["image_grid_thw"][0].tolist()
    torch.testing.assert_close(grid.normalised(patches), expected["pixel_values"].float(), atol=1e-5, rtol=0)
    assert grid.tokens(shape) == len(patches) // 4


def test_a_processor_saved_by_transformers_is_read_and_ours_by_transformers(tmp_path):
    theirs = PatchGrid(patch=14, least=28 * 28, most=140 * 140, mean=(0.1, 0.2, 0.3))
    reference(theirs).save_pretrained(tmp_path)
    assert PatchGrid.read(tmp_path, 10**9) == theirs
    assert PatchGrid.read(tmp_path, 56 * 56).most == 56 * 56
    ours = PatchGrid(patch=8, most=64 * 64)
    ours.write(tmp_path)
    loaded = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    torch.testing.assert_close(
        loaded(images=[picture(2)], return_tensors="pt")["pixel_values"], ours.normalised(ours.cut(picture(2))[0])
    )
    assert PatchGrid.read(tmp_path, 10**9) == ours


def test_settings_inside_a_processor_config(tmp_path):
    inside = '{"image_processor": {"patch_size": 16, "min_pixels": 1024, "max_pixels": 4096}, "processor_class": "x"}'
    (tmp_path / "processor_config.json").write_text(inside)
    grid = PatchGrid.read(tmp_path, 10**9)
    assert (grid.patch, grid.least, grid.most) == (16, 1024, 4096)
    with pytest.raises(InputError, match=r"preprocessor_config\.json"):
        PatchGrid.read(tmp_path / "nowhere", 10)


def test_a_picture_too_narrow_for_the_classes_is_squeezed():
    patches, (rows, columns) = PatchGrid().cut(picture(1, (3000, 2)))
    assert len(patches) == rows * columns and rows == 2 and columns <= 64
