import numpy as np
import pytest
from PIL import Image

from transnext.explain import overlay


def test_overlay_has_the_size_of_the_image():
    image = Image.new("RGB", (80, 48), "grey")
    result = overlay(image, np.random.default_rng(0).random((3, 5)), position=(0.5, 0.5))
    assert result.size == (80, 48)
    assert result.mode == "RGB"


def test_more_heat_is_brighter():
    heat = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(8, 0)
    luminance = np.asarray(overlay(Image.new("RGB", (64, 8), "grey"), heat).convert("L"))[4].astype(int)
    assert (np.diff(luminance) >= -1).all()
    assert luminance[-1] - luminance[0] > 100


def test_mark_is_at_the_position():
    image, heat = Image.new("RGB", (100, 50), "black"), np.zeros((50, 100))
    plain, marked = (np.asarray(overlay(image, heat, p), dtype=int) for p in (None, (0.25, 0.8)))
    rows, cols = np.nonzero((marked != plain).any(-1))
    assert abs(rows.mean() - 12) < 1.5
    assert abs(cols.mean() - 80) < 1.5
    assert marked.max() > 200


def test_mark_at_a_corner_stays_inside():
    overlay(Image.new("RGB", (9, 9)), np.ones((9, 9)), position=(0.0, 1.0))


def test_transparency_is_shown_on_white():
    clear = overlay(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), np.zeros((8, 8)))
    white = overlay(Image.new("RGB", (8, 8), "white"), np.zeros((8, 8)))
    assert clear.tobytes() == white.tobytes()


def test_values_out_of_range_are_clipped():
    image = Image.new("L", (4, 1), 128)
    result = overlay(image, np.array([[np.nan, -3, 7, np.inf]]))
    assert result.tobytes() == overlay(image, np.array([[0, 0, 1, 1]])).tobytes()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"expected \[H, W\]"):
        overlay(Image.new("RGB", (4, 4)), np.zeros((3, 4, 4)))
    with pytest.raises(ValueError, match="colormap"):
        overlay(Image.new("RGB", (4, 4)), np.zeros((4, 4)), colormap="nope")
