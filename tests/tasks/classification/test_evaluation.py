import json

import numpy as np
import pytest
import torch
from torch import nn

from transnext.data import Batch
from transnext.tasks.classification.metrics import Outputs, evaluate, summarise
from transnext.tasks.table import results_as_dict


class Images:
    """Three classes, names "image 0" and so on."""

    classes = ("a", "b", "c")
    source = type("Source", (), {"name": staticmethod(lambda index: f"image {index}")})


class Answer(nn.Module):
    """The logits are the pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return x.flatten(1)


LOGITS = torch.tensor([[2.0, 1, 0], [0, 2, 1], [0, 1, 2], [2, 0, 1], [0, 2, 1]])
TARGETS = torch.tensor([0, 1, 1, 1, 0])


def batches(*parts, skipped=()):
    for part in parts:
        part = torch.tensor(part, dtype=torch.int64)
        yield Batch(LOGITS[part].view(-1, 3, 1, 1), TARGETS[part], part, list(skipped))


def test_every_number():
    model = Answer().train()
    result = evaluate(model, batches([3, 1], [], [0, 4, 2], skipped=[("x.png", "broken")]), Images(), split="test")
    assert model.training
    assert result.top1 == pytest.approx(2 / 5)
    assert result.top5 == 1.0
    assert result.loss == pytest.approx(float(nn.functional.cross_entropy(LOGITS, TARGETS)))
    assert result.confusion.tolist() == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert [p.index for p in result.predictions] == [0, 1, 2, 3, 4]
    assert [p.predicted for p in result.predictions] == [0, 1, 2, 0, 1]
    assert result.predictions[3].name == "image 3"
    assert result.class_accuracy[:2].tolist() == pytest.approx([1 / 2, 1 / 3])
    assert np.isnan(result.class_accuracy[2])
    assert result.balanced_accuracy == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert result.top1_interval[0] <= result.top1 <= result.top1_interval[1]
    assert result.images_per_second > 0
    assert len(result.skipped) == 3


def test_processes_give_the_same_as_one():
    whole = evaluate(Answer(), batches(range(5)), Images())
    seen: list[Outputs] = []

    def collect(outputs):
        seen.append(outputs)
        return outputs if len(outputs.targets) else Outputs(LOGITS, TARGETS, torch.arange(5), [])

    evaluate(Answer(), batches([]), Images(), gather=collect)
    for rank in (1, 0):
        evaluate(Answer(), batches(range(rank, 5, 2)), Images(), gather=collect)
    assert seen[0].logits.shape == (0, 3)
    logits, targets, indices = (torch.cat(parts) for parts in list(zip(*seen, strict=True))[:3])
    together = summarise(Outputs(logits, targets, indices, []), name=Images.source.name)
    assert results_as_dict([together])["val"] | {"images_per_second": 0} == results_as_dict([whole])["val"] | {
        "images_per_second": 0
    }
    assert together.predictions == whole.predictions


def test_no_image():
    with pytest.raises(ValueError, match=r"no image of the split 'val' could be read; the first: x.png: broken"):
        evaluate(Answer(), batches([], skipped=[("x.png", "broken")]), Images())


def test_json_has_no_nan():
    plain = results_as_dict([evaluate(Answer(), batches(range(5)), Images())])
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["val"]["classes"][2] == {"images": 0, "top1": None, "top1_interval": None}


def test_nan_logits_count_as_wrong():
    outputs = Outputs(torch.full((2, 3), torch.nan), torch.tensor([1, 2]), torch.arange(2), [])
    assert summarise(outputs).top1 == 0
