import numpy as np
import pytest
from PIL import Image

from transnext.data.corruptions import CORRUPTIONS
from transnext.studies.corruptions import RobustnessResult
from transnext.studies.figures import draw_robustness, draw_scales
from transnext.studies.sizes import ScalePoint, ScaleResult


@pytest.mark.parametrize(("corruptions", "clean"), [(CORRUPTIONS, 0.9), (("fog", "contrast"), None)])
def test_robustness(tmp_path, corruptions, clean):
    top1 = np.linspace(0.8, 0.1, 5 * len(corruptions)).reshape(-1, 5)
    result = RobustnessResult(split="val", images=9, clean=clean, corruptions=corruptions, top1=top1)
    draw_robustness(result, tmp_path / "r.png")
    panels = 4 if len(corruptions) == 15 else 2
    with Image.open(tmp_path / "r.png") as picture:
        assert picture.size == (540 * panels, 570)


@pytest.mark.parametrize(("macs", "panels"), [(1e9, 3), (None, 2)])
def test_sizes(tmp_path, macs, panels):
    points = tuple(
        ScalePoint(size=s, mode=m, top1=0.5, top1_interval=(0.4, 0.6), images_per_second=9.0, macs=macs)
        for m in ("extrapolate", "linear")
        for s in (64, 128)
    )
    draw_scales(ScaleResult(split="val", images=9, trained_size=64, points=points), tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (690 * panels, 570)
