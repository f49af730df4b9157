"""A picture written strip by strip is read back as it was."""

import numpy as np
import pytest
from PIL import Image

from utils.pictures.png import write_png


@pytest.mark.parametrize("rows", [1, 4, 100])
@pytest.mark.parametrize("size", [(1, 1), (7, 13), (300, 9)])
def test_a_picture_is_read_back_with_its_size_and_notes(tmp_path, size, rows):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    pixels[::3] = 200
    strips = (pixels[top : top + rows] for top in range(0, size[1], rows))
    write_png(tmp_path / "x.png", size, strips, (300, 150), {"Software": "some", "Key": "b"})
    Image.open(tmp_path / "x.png").verify()  # checksums, too
    with Image.open(tmp_path / "x.png") as image:
        assert image.mode == "RGB"
        assert image.info["dpi"] == pytest.approx((300, 150), rel=1e-3)
        assert image.info["srgb"] == 0
        assert image.text == {"Software": "some", "Key": "b"}
        assert np.array_equal(np.asarray(image), pixels)
    write_png(tmp_path / "y.png", size, [pixels], None, {})
    assert "dpi" not in Image.open(tmp_path / "y.png").info
