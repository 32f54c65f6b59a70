"""Places of the page of one file: what is bright is drawn where it is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from tests.web.conftest import Visit
from tests.web.driving import canvas, give, png, settle
from transnext.data.preprocessing import Preprocessing
from transnext.models.checkpoint import save_checkpoint
from transnext.web.static_page import export_page

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def seeking(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, int] | None], Path]:
    """Pages of a network whose queries all look for what is bright, for images of one size or of several."""
    arguments = {
        "img_size": 64,
        "num_classes": 2,
        "embed_dims": (8,),
        "num_heads": (1,),
        "mlp_ratios": (2,),
        "depths": (1,),
        "sr_ratios": (8,),
    }
    torch.manual_seed(0)
    net = timm.create_model("transnext_pico", **arguments)
    with torch.no_grad():
        embed, mixer = net.stages[0].patch_embed, net.stages[0].blocks[0].attn
        # The first channel is the brightness around the centre of the patch, where black is 0 as the padding is.
        away = (torch.arange(7) - 3.0).abs()
        embed.proj.weight.zero_()
        embed.proj.weight[0] = torch.exp(-(away[:, None] ** 2 + away**2) / 8)
        embed.proj.bias.copy_(torch.tensor([0.0, 1, -1, 0, 0, 0, 0, 0]))
        for layer in (mixer.q, mixer.kv, mixer.sr, mixer.cpb_fc2):
            layer.weight.zero_()
            layer.bias.zero_()
        mixer.q.bias[0] = 1
        mixer.kv.weight[:8] = torch.eye(8)
        mixer.sr.weight[:, :, 0, 0] = torch.eye(8)
        mixer.relative_pos_bias_local.zero_()
        mixer.query_embedding.zero_()
        mixer.temperature.fill_(10)
    folder = tmp_path_factory.mktemp("seeking")
    metadata = {"architecture": "transnext_pico", "model_args": arguments, "class_names": ["a", "b"]}
    preprocessing = Preprocessing(
        input_size=(3, 64, 64),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        interpolation="bicubic",
        crop_pct=1.0,
        crop_mode="center",
    )
    save_checkpoint(
        folder / "seeking.safetensors", net.state_dict(), {**metadata, "preprocessing": preprocessing.to_dict()}
    )

    def page(size: tuple[int, int] | None) -> Path:
        path = folder / f"{size}.html"
        if not path.exists():
            export_page(folder / "seeking.safetensors", path, image_size=size)
        return path

    return page


@pytest.mark.parametrize(("size", "fixed"), [((64, 64), False), ((224, 224), False), ((333, 517), True)])
def test_a_bright_dot_is_found_where_it_is(
    visit: Callable[..., Visit], seeking: Callable[..., Path], size: tuple[int, int], fixed: bool
) -> None:
    """Within half a patch, of what is drawn: from the file of a dot to the brightest place of the canvas."""
    found = visit()
    path = seeking(size if fixed else None)
    page = found.go(path.as_uri())
    if not fixed:
        page.fill("#size", str(size[0]))
        settle(page)
    page.select_option("#block", "0.0")
    page.fill("#opacity", "100")
    stride = 4
    rows, cols = ([9, n // 2 + 3, n - 7] for n in size)
    for row, col in zip(rows, cols, strict=True):
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[row - 2 : row + 3, col - 2 : col + 3] = 255
        give(page, "dot.png", png(pixels))
        # A neighbour looks: its ring and window are drawn beside the dot.
        page.evaluate(
            f"() => {{ explorer.state.at = [{row}, {col - stride}]; explorer.painter.ring = () => {{}};"
            " explorer.painter.fovea = () => {}; explorer.draw(); }"
        )
        drawn = canvas(page).astype(float)
        scale = drawn.shape[0] // size[0]
        assert drawn.shape == (size[0] * scale, size[1] * scale, 3)
        bright = drawn.sum(-1)
        places = np.argwhere(bright >= bright.max() - 6)
        centre = (places.mean(0) + 0.5) / scale - 0.5
        assert np.abs(centre - (row, col)).max() <= stride / 2, (row, col, centre)
        assert bright.max() - np.median(bright) > 300  # the rest is dark
        # And the periphery alone finds the pooled patch that it is in: of 8 or 9 pixels a side, which may overlap.
        page.check("input[value=pool]")
        page.wait_for_timeout(50)
        bright = canvas(page).astype(float).sum(-1)
        centre = (np.argwhere(bright >= bright.max() - 6).mean(0) + 0.5) / scale - 0.5
        assert np.abs(centre - (row, col)).max() <= 9 * stride, (row, col, centre)
        page.check("input[value=both]")
