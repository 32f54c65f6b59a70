"""Reads the golden files of Mask2Former and builds what they are of, by what they say of themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.detection_golden import DetectionGolden, detection_files, read_detection_golden
from transnext.tasks.segmentation.mask2former import losses
from transnext.tasks.segmentation.mask2former.matching import Pair
from transnext.tasks.segmentation.mask2former.model import Mask2Former, mask2former
from transnext.tasks.segmentation.mask2former.official import args_of_released, from_released


class Mask2FormerGolden(DetectionGolden):
    """One golden file: what it says of itself, and its tensors."""

    def tolerance(self, name: str) -> float:
        """Largest difference allowed to a tensor."""
        if "tolerance" in self.config:
            return super().tolerance(name)
        # Of the files without: as those with have it. Noise of 2e-7 stands for twice as much as theirs.
        noise = self.config["output_change_under_2e7_relative_noise"][name]
        return max(1e-5 * float(self.tensors[name].abs().max()), 5 * noise)

    def build(self) -> Mask2Former:
        """The network with the weights of the file."""
        head = self.config["model_config"]["decode_head"]
        args = args_of_released(self.weights)
        assert args["num_classes"] == head["num_classes"]
        assert args["num_queries"] == head["num_queries"]
        assert args["num_heads"] == head["transformer_decoder"]["layer_cfg"]["cross_attn_cfg"]["num_heads"]
        assert args["encoder_layers"] == head["pixel_decoder"]["encoder"]["num_layers"]
        assert args["decoder_layers"] == head["transformer_decoder"]["num_layers"]
        net = mask2former(self.backbone(), num_points=head["train_cfg"]["num_points"], **args)
        net.load_state_dict(from_released(self.weights))
        return net

    @property
    def outputs(self) -> int:
        """Outputs of the decoder, that before its first layer included."""
        return self.config["model_config"]["decode_head"]["transformer_decoder"]["num_layers"] + 1

    def expected_losses(self, beginning: str) -> dict[str, Tensor]:
        """By our names, 0-d."""
        found = {k.removeprefix(beginning): t for k, t in self.tensors.items() if k.startswith(beginning)}
        return {key: tensor.squeeze() for key, tensor in found.items() if "loss_" in key}


class Step:
    """What happens in a training step with the points of a file in place of random ones.

    Attributes:
        pairs: Of each output and image.
        used: Points at which the masks of each output are looked at.
    """

    def __init__(self) -> None:
        self.pairs: list[list[Pair]] = []
        self.used: list[Tensor] = []


@contextmanager
def drawn_from(golden: Mask2FormerGolden, beginning: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Step]:
    """Has the losses draw the points of a file, in the order of the released code, and all of them."""
    order = []
    images = len(golden.tensors["x"])
    for output in range(golden.outputs):
        order += [f"points.match.{output}.{image}" for image in range(images)]
        order += [f"points.over.{output}", f"points.rand.{output}"]
    waiting = [golden.tensors[beginning + name] for name in order]
    step = Step()

    def draw(rows: int, count: int, device: torch.device) -> Tensor:
        points = waiting.pop(0)
        assert points.shape == (rows, count, 2)
        return points

    def choose(masks: Tensor, count: int) -> Tensor:
        step.used.append(choose_points(masks, count))
        return step.used[-1]

    def match(*args: list[Tensor]) -> list[Pair]:
        step.pairs.append(match_all(*args))
        return step.pairs[-1]

    choose_points, match_all = losses.choose_points, losses.match
    with monkeypatch.context() as patch:
        patch.setattr(losses, "draw_points", draw)
        patch.setattr(losses, "choose_points", choose)
        patch.setattr(losses, "match", match)
        yield step
    assert not waiting


def mask2former_files(folder: Path | None, *, training: bool) -> list[Path]:
    """The files of Mask2Former in a folder: those of a training step, or those of outputs."""
    return detection_files(folder, "m2f", training)


def read_mask2former(path: Path) -> Mask2FormerGolden:
    """A file of kind "m2f"."""
    return Mask2FormerGolden(*read_detection_golden(path))
