import numpy as np
import pytest
from PIL import Image

from tests.explain.test_look import looked_at
from transnext.explain import attention_figure, overlay


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


def test_a_figure_of_a_region_says_how_many_queries_it_is_of():
    _, _, looked = looked_at((64, 96))
    picture = Image.new("RGB", (96, 64), "grey")
    figure = attention_figure(picture, looked, stage=1, block=0, box=(0, 0, 40, 64))
    assert "mean of 40 queries of 8 x 12" in figure.get_suptitle()
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    share = looked.region(1, 0, box=(0, 0, 40, 64)).fovea.mean()
    assert titles[:3] == ["picture", "attention", f"window, {share:.0%}"]
    shown = figure.axes[0].images[0].get_size()
    outline = figure.axes[0].patches[0]
    assert outline.get_xy() == (-0.5, -0.5)
    assert (outline.get_height(), outline.get_width()) == (shown[0], pytest.approx(shown[1] * 40 / 96))
    plain = attention_figure(picture, looked, (0.5, 0.5), stage=1, block=0)
    assert "query (4, 6) of 8 x 12" in plain.get_suptitle()
