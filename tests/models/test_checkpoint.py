"""Checkpoints: every layout is read, bad files are told apart, and no code in them runs."""

import io
import pickle
import stat
import sys
import types
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.helpers.golden_files import files_of
from transnext import TransNeXt
from transnext.models.checkpoint import (
    CheckpointError,
    convert_checkpoint,
    guess_variant,
    inert_pickle,
    load_checkpoint,
    model_from_checkpoint,
    read_checkpoint,
    read_tensors,
    save_checkpoint,
    writing,
)
from transnext.models.checkpoint.guessing import outline
from transnext.models.official import ours_to_official

VARIANTS = ["pico", "nano", "micro", "tiny", "small", "base", "micro_aaaa"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The models are so small that threads only get in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(randomise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return randomise(timm.create_model("transnext_pico", num_classes=7)).eval()


@pytest.fixture(scope="module")
def ours(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def official(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    return {ours_to_official(key): tensor for key, tensor in ours.items()}


@pytest.fixture(scope="module")
def dense(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """As mmdet saves it: the backbone without classifier, and other parts, some with names that could mislead."""
    backbone = {f"backbone.{key}": t for key, t in official.items() if not key.startswith("head.")}
    heads = {"neck.norm1.weight": 0, "bbox_head.head.weight": 1, "query_embedding.weight": 2, "norm1.weight": 3}
    return {**{key: torch.full((2,), float(i)) for key, i in heads.items()}, **backbone}


def _equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def _without_head(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in ours.items() if not key.startswith("head.")}


# Layouts


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sd: sd,
        lambda sd: OrderedDict(sd),
        lambda sd: {"model": sd, "optimizer": {"state": {}}, "epoch": 3},
        lambda sd: {"model": {"x": torch.zeros(1)}, "model_ema": sd},
        lambda sd: {"model": sd, "model_ema": None},
        lambda sd: {"state_dict": sd, "args": Namespace(lr=1)},
        lambda sd: {"state_dict": {f"module.{key}": t for key, t in sd.items()}},
        lambda sd: {f"module._orig_mod.{key}": t for key, t in sd.items()},
        lambda sd: {key: nn.Parameter(t) for key, t in sd.items()},
        lambda sd: {"model": {key: nn.Parameter(t) for key, t in sd.items()}, "args": Namespace(lr=1)},
        lambda sd: {**sd, "block1.0.attn.padding_mask": torch.zeros(4), "relative_pos_index2": torch.zeros(4)},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_every_wrapping_of_released_names_is_read(
    wrap: Callable[[dict], Any], zipped: bool, official: dict[str, Tensor], ours: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(official), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert _equal(checkpoint.state_dict, ours)
    assert checkpoint.layout == "official"
    assert not any(tensor.requires_grad for tensor in checkpoint.state_dict.values())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin", ""])
@pytest.mark.parametrize("names", ["ours", "official"])
@pytest.mark.parametrize("is_torch", [True, False])
def test_the_content_decides_the_format_and_not_the_name(
    suffix: str, names: str, is_torch: bool, official: dict[str, Tensor], ours: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    weights = ours if names == "ours" else official
    if is_torch:
        torch.save(weights, path)
    else:
        save_file(weights, path)
    checkpoint = read_checkpoint(path)
    assert _equal(checkpoint.state_dict, ours)
    assert checkpoint.layout == names
    assert checkpoint.dropped == ()


def test_dense_model_gives_its_backbone_and_says_what_it_left(
    dense: dict[str, Tensor], ours: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"state_dict": dense, "meta": {"epoch": 12}}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert _equal(checkpoint.state_dict, _without_head(ours))
    assert set(checkpoint.dropped) == {key for key in dense if not key.startswith("backbone.")}
    tensors, _ = read_tensors(tmp_path / "x.pth")
    assert _equal(tensors, dense)


def test_golden_dense_models_load_into_backbones(shared_golden: Path, tmp_path: Path) -> None:
    for file in files_of(shared_golden, dense=True):
        with safe_open(file, "pt") as f:
            weights = {key[2:]: f.get_tensor(key) for key in f.keys() if key.startswith("w.")}  # noqa: SIM118
        torch.save({"state_dict": weights, "meta": {}}, tmp_path / "x.pth")
        state_dict = read_checkpoint(tmp_path / "x.pth").state_dict
        backbone = TransNeXt(
            **{**outline(state_dict), "mlp_ratios": (8, 8, 4, 4), "sr_ratios": (8, 4, 2, 1)}, num_classes=0
        )
        load_checkpoint(backbone, tmp_path / "x.pth")
        expected = weights["backbone.block3.0.mlp.dwconv.dwconv.weight"].float()
        assert torch.equal(backbone.stages[2].blocks[0].mlp.dwconv.weight, expected)


# Pickled code


class _Malicious:
    """Leaves a file behind when it is unpickled by a reader that runs code."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.victim, "run"))


class _Evaluated(_Malicious):
    def __reduce__(self) -> Any:
        return (eval, (f"__import__('pathlib').Path({str(self.victim)!r}).write_text('run')",))


def test_the_malicious_objects_of_these_tests_do_run_under_plain_pickle(tmp_path: Path) -> None:
    for kind in (_Malicious, _Evaluated):
        victim = tmp_path / kind.__name__
        pickle.loads(pickle.dumps(kind(victim)))
        assert victim.exists()


@pytest.mark.parametrize("kind", [_Malicious, _Evaluated])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "place",
    [
        lambda sd, bad: {**sd, "head.bias": bad},
        lambda sd, bad: {"model": {**sd, "extra": bad}},
        lambda sd, bad: {"state_dict": bad},
        lambda sd, bad: bad,
        lambda sd, bad: {**sd, bad: torch.zeros(1)},
    ],
)
def test_code_among_the_weights_is_refused_and_never_run(
    kind: type[_Malicious], zipped: bool, place: Callable[..., Any], official: dict[str, Tensor], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    torch.save(place(official, kind(victim)), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"pickled object|not a tensor"):
        read_checkpoint(tmp_path / "x.pth")
    assert not victim.exists()


@pytest.mark.parametrize("kind", [_Malicious, _Evaluated])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_beside_the_weights_is_never_run(
    kind: type[_Malicious], zipped: bool, official: dict[str, Tensor], ours: dict[str, Tensor], tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    content = {"meta": {"hook": kind(victim)}, "state_dict": official}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert _equal(read_checkpoint(tmp_path / "x.pth").state_dict, ours)
    assert not victim.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_plain_pickles_are_refused_and_never_run(tmp_path: Path) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        victim = tmp_path / "victim"
        (tmp_path / "x.pth").write_bytes(pickle.dumps(_Evaluated(victim), protocol))
        with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
            read_checkpoint(tmp_path / "x.pth")
        assert not victim.exists()


def test_a_file_cannot_change_the_functions_that_make_tensors(tmp_path: Path) -> None:
    # BUILD sets attributes of whatever is on the stack: here, of the function that makes tensors.
    attack = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00poisonedK\x01sb."
    inert_pickle.Unpickler(io.BytesIO(attack)).load()
    assert not hasattr(torch._utils._rebuild_tensor_v2, "poisoned")
    pickle.loads(attack)
    assert hasattr(torch._utils._rebuild_tensor_v2, "poisoned")
    del torch._utils._rebuild_tensor_v2.poisoned


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_metadata_of_unknown_classes_does_not_get_in_the_way(
    zipped: bool,
    protocol: int,
    official: dict[str, Tensor],
    ours: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Like mmengine's: subclasses of dict and list, objects with state, numpy arrays and scalars.
    framework = types.ModuleType("framework_of_training")
    for name, base in {"ConfigDict": dict, "History": object, "Items": list, "Names": set}.items():
        setattr(framework, name, type(name, (base,), {"__module__": framework.__name__}))
    monkeypatch.setitem(sys.modules, framework.__name__, framework)
    config = framework.ConfigDict(lr=1e-4, nested=framework.ConfigDict(a=[1, 2]))
    config.flag = True
    history = framework.History()
    history.values = np.arange(3.0)
    meta = {
        "cfg": config,
        "history": history,
        "items": framework.Items([1, 2]),
        "names": framework.Names({"a", "b"}),
        "loss": np.float64(0.5),
        "time": np.datetime64("2024-01-01"),
        "path": Path("a/b"),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "tensor": torch.zeros(2, dtype=torch.bfloat16),
    }
    content = {"meta": meta, "state_dict": official, "message_hub": {"log_scalars": OrderedDict(a=history)}}
    torch.save(content, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, framework.__name__)
    assert _equal(read_checkpoint(tmp_path / "x.pth").state_dict, ours)


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict\(\) instead"):
        read_checkpoint(tmp_path / "x.pth")


# Bad files


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, these are notes", "text that begins with 'hello, these are notes'"),
        ("é".encode() * 600, "text that begins with"),
        (b"  <!doctype html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"\xff\xd8\xff\xe0 a photograph" * 100, "begins with the bytes ff d8 ff e0"),
        (b"PK\x03\x04 an archive of something else", "cut off or damaged"),
        (b"\x80\x02 noise", "cut off or damaged"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{ not a header }     ", "cut off or damaged"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x7f{}", "cut off in its header"),
    ],
)
def test_what_is_not_a_checkpoint_is_said_in_one_line(
    content: bytes, message: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_file_cut_off_anywhere_is_damaged(kind: str, ours: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "safetensors":
        save_file(ours, path)
    else:
        torch.save(ours, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for length in (20, 1000, len(whole) // 3, len(whole) - 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cut off"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no weights"),
        ([torch.zeros(1)], "holds a list"),
        (torch.zeros(1), "holds a Tensor"),
        ({"epoch": 1, "lr": 0.1}, "it holds 'epoch', 'lr'"),
        ({"net": {"w": torch.zeros(1)}}, "it holds 'net'"),
        ({"model": []}, "no weights under 'model'"),
        ({"w": torch.zeros(1), "epoch": 3}, "'epoch' among the weights is a int"),
    ],
)
def test_a_torch_file_without_weights(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "x.pth")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*x\.pth"):
        read_checkpoint(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="not a file"):
        read_checkpoint(tmp_path)


def test_metadata_that_is_not_ours(ours: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(ours, tmp_path / "a", metadata={"format": "pt", "license": "apache-2.0"})
    assert read_checkpoint(tmp_path / "a").metadata == {"license": "apache-2.0"}
    for entry in ("{", "[1]"):
        save_file(ours, tmp_path / "b", metadata={"transnext": entry})
        with pytest.raises(CheckpointError, match=r"not (a )?JSON"):
            read_checkpoint(tmp_path / "b")


# Loading


def test_a_checkpoint_gives_the_same_outputs(model: nn.Module, dense: dict[str, Tensor], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", model.state_dict(), {})
    torch.save({"state_dict": dense}, tmp_path / "dense.pth")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        other = timm.create_model("transnext_pico", num_classes=7).eval()
        load_checkpoint(other, tmp_path / "x.safetensors")
        assert torch.equal(other(x), model(x))
        for name in ("x.safetensors", "dense.pth"):
            backbone = timm.create_model("transnext_pico", num_classes=0).eval()
            load_checkpoint(backbone, tmp_path / name)
            assert torch.equal(backbone.forward_features(x), model.forward_features(x))
            features = timm.create_model("transnext_pico", features_only=True, out_indices=(0, 2)).eval()
            load_checkpoint(features, tmp_path / name)
            expected = model.forward_intermediates(x, [0, 2], intermediates_only=True)
            assert all(torch.equal(a, b) for a, b in zip(features(x), expected, strict=True))


def test_head_that_does_not_fit(model: nn.Module, ours: dict[str, Tensor], dense: dict, tmp_path: Path) -> None:
    save_file(ours, tmp_path / "x.safetensors")
    torch.save(dense, tmp_path / "dense.pth")
    for name, message in {
        "x.safetensors": "a classifier of 7 classes, and the transnext_pico .* of 12 classes: .*num_classes=7",
        "dense.pth": "no classifier, and the transnext_pico .* of 12 classes: .*num_classes=0",
    }.items():
        other = timm.create_model("transnext_pico", num_classes=12)
        before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(other, tmp_path / name)
        assert _equal(other.state_dict(), before)
        load_checkpoint(other, tmp_path / name, new_head=True)
        assert _equal(_without_head(other.state_dict()), _without_head(ours))
        assert torch.equal(other.head.fc.weight, before["head.fc.weight"])
    same = timm.create_model("transnext_pico", num_classes=7)
    load_checkpoint(same, tmp_path / "x.safetensors", new_head=True)
    assert _equal(same.state_dict(), ours)


def test_errors_name_missing_unexpected_and_reshaped_parameters(ours: dict[str, Tensor], tmp_path: Path) -> None:
    weights = {key: tensor for key, tensor in ours.items() if key != "stages.1.norm.bias"}
    weights["stages.2.norm.extra"] = torch.zeros(1)
    weights["stages.3.norm.weight"] = torch.zeros(5)
    save_file(weights, tmp_path / "x.safetensors")
    for new_head in (False, True):
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(
                timm.create_model("transnext_pico", num_classes=7), tmp_path / "x.safetensors", new_head=new_head
            )
        message = str(caught.value)
        assert "1 parameter missing (stages.1.norm.bias)" in message
        assert "1 parameter unexpected (stages.2.norm.extra)" in message
        assert "1 parameter of another shape (stages.3.norm.weight: (5,) in the file, (192,) in the model)" in message
        assert "\n" not in message


def test_checkpoint_of_another_variant_is_named(ours: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(ours, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit transnext_nano: 571 .* looks like transnext_pico: depths"):
        load_checkpoint(timm.create_model("transnext_nano", num_classes=7), tmp_path / "x.safetensors")
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"does not hold a TransNeXt: its first parameters are bias; weight"):
        load_checkpoint(timm.create_model("transnext_nano"), tmp_path / "other.safetensors")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_recognised(variant: str) -> None:
    built = timm.create_model(f"transnext_{variant}", num_classes=3, device="meta")
    assert guess_variant(built.state_dict()) == f"transnext_{variant}"


def test_unknown_variants_are_not_guessed() -> None:
    assert guess_variant(TransNeXt(depths=(1, 1, 1, 1), device="meta").state_dict()) is None
    assert guess_variant({"weight": torch.zeros(1)}) is None


def test_a_model_around_a_transnext_loads_its_own_checkpoint_whole(
    dense: dict[str, Tensor], ours: dict[str, Tensor], tmp_path: Path
) -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model("transnext_pico", num_classes=0)
            self.neck = nn.ModuleDict({"norm1": nn.LayerNorm(2, bias=False)})

    detector = Detector()
    weights = {key: t for key, t in dense.items() if key.startswith(("backbone.", "neck."))}
    weights["neck.norm1.weight"] = torch.tensor([3.0, 4.0])
    torch.save({"state_dict": weights}, tmp_path / "x.pth")
    load_checkpoint(detector, tmp_path / "x.pth")
    assert _equal(detector.backbone.state_dict(), _without_head(ours))
    assert detector.neck["norm1"].weight.tolist() == [3, 4]
    del weights["neck.norm1.weight"]
    torch.save({"state_dict": weights}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"1 parameter missing \(neck.norm1.weight\)"):
        load_checkpoint(detector, tmp_path / "x.pth")


def test_models_that_are_not_ours_load_by_their_own_names(tmp_path: Path) -> None:
    name = "test_vit"
    save_checkpoint(
        tmp_path / "x.safetensors",
        timm.create_model(name, num_classes=4).state_dict(),
        {"architecture": name, "model_args": {"num_classes": 4}},
    )
    assert read_checkpoint(tmp_path / "x.safetensors").layout == "other"
    assert model_from_checkpoint(tmp_path / "x.safetensors").num_classes == 4
    with pytest.raises(CheckpointError, match="classifier of 4 classes"):
        load_checkpoint(timm.create_model(name, num_classes=5), tmp_path / "x.safetensors")


# timm's ways


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("layout", ["ours", "official", "wrapped", "dense"])
def test_timm_checkpoint_path(
    suffix: str,
    layout: str,
    ours: dict[str, Tensor],
    official: dict[str, Tensor],
    dense: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    path = tmp_path / f"x{suffix}"
    weights = {"ours": ours, "official": official, "wrapped": official, "dense": dense}[layout]
    if suffix == ".safetensors":
        save_file({key: t.clone() for key, t in weights.items()}, path)
    else:
        torch.save({"model": weights} if layout == "wrapped" else weights, path)
    kwargs: dict[str, Any]
    for kwargs in (
        {"num_classes": 7},
        {"num_classes": 0},
        {"features_only": True},
        {"features_only": True, "out_indices": [1]},
    ):
        if layout == "dense" and kwargs.get("num_classes") == 7:
            with pytest.raises(RuntimeError, match=r"Missing key.*head\.fc"):
                timm.create_model("transnext_pico", checkpoint_path=path, **kwargs)
            continue
        built = timm.create_model("transnext_pico", checkpoint_path=path, **kwargs)
        found = getattr(built, "model", built).state_dict()
        assert len(found) > 50
        assert all(torch.equal(tensor, ours[key]) for key, tensor in found.items())


def test_timm_checkpoint_path_stays_strict(ours: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({**ours, "stages.0.norm.extra": torch.zeros(1)}, tmp_path / "x.pth")
    for kwargs in ({"num_classes": 7}, {"features_only": True}):
        with pytest.raises(RuntimeError, match=r"Unexpected key.*stages\.0\.norm\.extra"):
            timm.create_model("transnext_pico", checkpoint_path=tmp_path / "x.pth", **kwargs)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_pretrained_from_a_local_file(
    suffix: str, ours: dict[str, Tensor], official: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"x{suffix}"
    torch.save({"model": official}, path)
    overlay = {"file": str(path)}

    def create(**kwargs: Any) -> nn.Module:
        return timm.create_model("transnext_pico", pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)

    assert _equal(create(num_classes=7).state_dict(), ours)
    other = create(num_classes=3, in_chans=1)
    first = "stages.0.patch_embed.proj.weight"
    assert torch.allclose(other.state_dict()[first], ours[first].sum(1, keepdim=True), atol=1e-6)
    assert other.head.fc.weight.shape == (3, 192)
    rest = {key: t for key, t in other.state_dict().items() if key != first and not key.startswith("head.")}
    assert all(torch.equal(t, ours[key]) for key, t in rest.items())
    features = create(features_only=True, out_indices=(0, 1), in_chans=4)
    assert features.model.stages[0].patch_embed.proj.weight.shape[1] == 4
    assert torch.equal(features.model.stages[1].norm.weight, ours["stages.1.norm.weight"])
    assert "state_dict" not in features.pretrained_cfg
    # Without a number of classes it is the default of the variant, which the file does not have.
    with pytest.raises(CheckpointError, match=r"x\..*classifier of 7 classes"):
        create()
    with pytest.raises(CheckpointError, match=r"does not fit transnext_nano.*looks like transnext_pico"):
        timm.create_model("transnext_nano", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=7)
    path.write_text("not weights")
    with pytest.raises(CheckpointError, match="text that begins with 'not weights'"):
        create(num_classes=7)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        create(num_classes=7)


def test_timm_pretrained_from_a_state_dict(ours: dict[str, Tensor], official: dict[str, Tensor]) -> None:
    overlay = {"state_dict": {"model": official}, "num_classes": 7}
    built = timm.create_model("transnext_pico", pretrained=True, pretrained_cfg_overlay=overlay)
    assert _equal(built.state_dict(), ours)


def test_timm_pretrained_from_a_folder(model: nn.Module, ours: dict[str, Tensor], tmp_path: Path) -> None:
    timm.models.save_for_hf(model, str(tmp_path))
    built = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert _equal(built.state_dict(), ours)
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3, in_chans=1)
    assert torch.equal(other.stages[3].norm.weight, ours["stages.3.norm.weight"])


# Writing


def test_what_is_saved_comes_back(ours: dict[str, Tensor], tmp_path: Path) -> None:
    metadata = {
        "architecture": "transnext_pico",
        "model_args": {"num_classes": 7},
        "class_names": ["ä", "b"],
        "n": None,
    }
    view = torch.arange(12.0).view(3, 4)
    weights = {**ours, "a": view.t(), "b": view[1], "c": view, "d": view.half(), "e": view}
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, weights, metadata)
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata == metadata
    assert _equal(checkpoint.state_dict, weights)
    assert checkpoint.state_dict["d"].dtype == torch.float16
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_failed_write_leaves_what_was_there(ours: dict[str, Tensor], tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, ours, {"epoch": 1})

    def fail(weights: Any, file: Path, **_: Any) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(writing, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, ours, {"epoch": 2})
    assert read_checkpoint(path).metadata == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_model_from_its_checkpoint(model: nn.Module, ours: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    args = {"num_classes": 7, "img_size": 96, "bias_mode": "interpolate"}
    save_checkpoint(path, ours, {"architecture": "transnext_pico", "model_args": args})
    built = model_from_checkpoint(path)
    assert _equal(built.state_dict(), ours)
    assert built.img_size == (96, 96)
    assert built.bias_mode == "interpolate"
    assert model_from_checkpoint(path, bias_mode="extrapolate").bias_mode == "extrapolate"
    assert _equal(model_from_checkpoint(path, num_classes=0).state_dict(), _without_head(ours))
    assert model_from_checkpoint(path, num_classes=2).head.fc.weight.shape[0] == 2
    assert _equal(model_from_checkpoint(path, features_only=True).model.state_dict(), _without_head(ours))
    convert_checkpoint(path, tmp_path / "x.pth", "official")
    assert model_from_checkpoint(tmp_path / "x.pth").img_size == (96, 96)


def test_model_from_a_file_that_does_not_say_what_it_is(
    official: dict[str, Tensor], ours: dict[str, Tensor], dense: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": official}, path)
    assert _equal(model_from_checkpoint(path).state_dict(), ours)
    assert _equal(model_from_checkpoint(path, "transnext_pico").state_dict(), ours)
    with pytest.raises(CheckpointError, match="does not fit transnext_micro"):
        model_from_checkpoint(path, "transnext_micro")
    torch.save(dense, path)
    assert _equal(model_from_checkpoint(path, "transnext_pico").state_dict(), _without_head(ours))
    torch.save({key: tensor for key, tensor in official.items() if not key.startswith("block4")}, path)
    with pytest.raises(CheckpointError, match=r"does not say which model .* looks like no registered variant"):
        model_from_checkpoint(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"architecture": "no_such_model"}, "no model is called 'no_such_model'"),
        ({"architecture": "hf-hub:somebody/something"}, "no model is called"),
        ({"architecture": ["transnext_pico"]}, "no model is called"),
        ({"architecture": "transnext_pico", "model_args": {"checkpoint_path": "/etc/passwd"}}, "model_args"),
        ({"architecture": "transnext_pico", "model_args": [1]}, "model_args"),
        ({"architecture": "transnext_pico", "model_args": {"no_such_argument": 1}}, "no_such_argument"),
    ],
)
def test_metadata_that_names_no_model(
    metadata: dict[str, Any], message: str, ours: dict[str, Tensor], tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "x.safetensors", ours, metadata)
    with pytest.raises(CheckpointError, match=message):
        model_from_checkpoint(tmp_path / "x.safetensors")


def test_headers_of_any_length_are_those_of_safetensors(tmp_path: Path) -> None:
    """Lengths are multiples of 8, and one in 32 has the first byte of a pickle."""
    file, first_bytes = tmp_path / "a.safetensors", set()
    for length in range(512):
        save_file({"a": torch.zeros(2)}, file, {"text": "x" * length})
        first_bytes.add(file.read_bytes()[0])
        assert read_tensors(file)[0]["a"].tolist() == [0, 0]
    assert 0x80 in first_bytes
