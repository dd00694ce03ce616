"""Finding, reading and normalising images."""

from __future__ import annotations

import mmcv
import numpy as np
import pytest
import torch

from instruments.images import Preprocessing, find_images, read_picture
from mmmetaformer.engine.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("b.png", "a.PNG", "inner/c.png"):
        # In the order of files: blue, green, red.
        mmcv.imwrite(np.full((4, 6, 3), (10, 20, 30), np.uint8), str(tmp_path / name.lower()))
    (tmp_path / "a.png").rename(tmp_path / "a.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_files_and_folders(folder):
    names = [path.name for path in find_images([str(folder)], 10)[0]]
    assert names == ["a.PNG", "b.png"]
    paths, there = find_images([str(folder / "inner" / "c.png"), str(folder)], 2)
    assert [path.name for path in paths] == ["c.png", "a.PNG"] and there == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", "no images in the folder '.*empty': looked for"),
        ("none.png", "no image or folder"),
    ],
)
def test_nothing_there(source, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        find_images([str(tmp_path / source)], 10)


@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_a_file_that_is_no_image(content, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError, match="broken.jpg cannot be read as an image"):
        read_picture(path, (8, 8))


def test_pixels_are_rgb_and_resized(folder):
    pixels = read_picture(folder / "b.png", (8, 10)).pixels
    assert pixels.shape == (8, 10, 3) and pixels.dtype == np.uint8
    assert (pixels == (30, 20, 10)).all()


def test_normalisation_in_both_orders():
    pixels = np.full((2, 3, 3), (30, 20, 10), np.uint8)
    rgb = Preprocessing((10, 10, 10), (1, 2, 4))(pixels)
    assert rgb.shape == (3, 2, 3) and rgb.dtype == torch.float32
    assert rgb[:, 0, 0].tolist() == [20, 5, 0]
    assert Preprocessing((10, 10, 10), (1, 2, 4), "BGR")(pixels)[:, 1, 2].tolist() == [0, 5, 5]
    # ImageNet's
    expected = [(30 - 123.675) / 58.395, (20 - 116.28) / 57.12, (10 - 103.53) / 57.375]
    torch.testing.assert_close(Preprocessing()(pixels)[:, 0, 0], torch.tensor(expected))
