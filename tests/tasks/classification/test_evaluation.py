import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from transnext.data import Batch
from transnext.data.preprocessing import Preprocessing
from transnext.engine.eval_loop import evaluate
from transnext.tasks.classification.metrics import ClassificationMeter, Outputs, summarise
from transnext.tasks.classification.task import Classification

TASK = Classification(metadata={"class_names": ["a", "b", "c"]})
PREPROCESSING = Preprocessing(
    input_size=(3, 1, 1), mean=(0.0,) * 3, std=(1 / 255,) * 3, interpolation="bicubic", crop_pct=1.0, crop_mode="center"
)


class Answer(nn.Module):
    """The logits are the pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return x.flatten(1)


def asked(model, parts, split="val", **kwargs):
    source = SimpleNamespace(name="image {}".format)
    return evaluate(TASK, model, parts, PREPROCESSING, split=split, source=source, **kwargs)


LOGITS = torch.tensor([[2.0, 1, 0], [0, 2, 1], [0, 1, 2], [2, 0, 1], [0, 2, 1]])
TARGETS = torch.tensor([0, 1, 1, 1, 0])


def batches(*parts, skipped=()):
    for part in parts:
        part = torch.tensor(part, dtype=torch.int64)
        images = LOGITS[part].view(-1, 3, 1, 1).to(torch.uint8)
        yield Batch(images, TARGETS[part], part, list(skipped), torch.ones(len(part), 2, dtype=torch.int64), [])


def test_every_number():
    model = Answer().train()
    result = asked(model, batches([3, 1], [], [0, 4, 2], skipped=[("x.png", "broken")]), split="test")
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


@pytest.mark.parametrize("late", [False, True])
def test_speed_is_that_of_the_model(monkeypatch, late):
    """What the meter does with the outputs is not counted, but outputs that are made only when it takes them are."""
    add = ClassificationMeter.add

    def slow_add(self, raw, batch):
        raw = torch.cat(list(raw)) if late else raw
        time.sleep(0.05)
        add(self, raw, batch)

    monkeypatch.setattr(ClassificationMeter, "add", slow_add)
    if late:
        monkeypatch.setattr(Classification, "raw", lambda _, net, images, sizes: iter([net(images)]))
    rate = asked(Answer(), batches(range(5), range(5), range(5))).images_per_second
    assert (rate > 5 / 0.05) != late


def test_processes_give_the_same_as_one():
    whole = asked(Answer(), batches(range(5)))
    states = []

    def keep(state):
        states.append(state)
        return [state] if len(state[0].targets) else [(Outputs(LOGITS, TARGETS, torch.arange(5)), [])]

    asked(Answer(), batches([]), gather=keep)
    for rank in (1, 0):
        asked(Answer(), batches(range(rank, 5, 2)), gather=keep)
    assert states[0][0].logits.shape == (0, 3)
    meter = TASK.meter()
    meter.merge(states)
    together = meter.result("val", "image {}".format)
    assert together.to_dict() | {"images_per_second": 0} == whole.to_dict() | {"images_per_second": 0}
    assert together.predictions == whole.predictions


def test_no_image():
    with pytest.raises(ValueError, match=r"no image of the split 'val' could be read; the first: x.png: broken"):
        asked(Answer(), batches([], skipped=[("x.png", "broken")]))


def test_json_has_no_nan():
    plain = asked(Answer(), batches(range(5))).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["classes"][2] == {"name": TASK.class_names[2], "images": 0, "top1": None, "top1_interval": None}


def test_nan_logits_count_as_wrong():
    outputs = Outputs(torch.full((4, 3), torch.nan), torch.tensor([0, 0, 1, 2]), torch.arange(4))
    result = summarise(outputs, [])
    assert (result.top1, result.top5, result.balanced_accuracy) == (0, 0, 0)
    assert result.calibration.expected_error == 0
    assert result.notes == ("4 images had answers that are not finite: wrong ones",)
