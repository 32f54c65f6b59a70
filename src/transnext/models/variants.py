"""The variants, registered with timm under `transnext_*`.

`micro`, `tiny`, `small`, `base` and `micro_aaaa` are the paper's. `pico`, `pico_patch2_28` and `nano` are ours, by the
same design rules, for small machines and small images.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from transnext.models.checkpoint import accept_checkpoint_keys, load_pretrained_weights, read_checkpoint
from transnext.models.transnext import TransNeXt, last_map_size, size_pair


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "input_size": (3, 224, 224),
        "num_classes": 1000,
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "stages.0.patch_embed.proj",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


def _released(repository: str, size: int, **kwargs: Any) -> dict[str, Any]:
    return _cfg(
        hf_hub_id=f"DaiShiResearch/{repository}",
        hf_hub_filename=f"{repository.replace('-', '_')}.pth",
        origin_url="https://github.com/DaiShiResearch/TransNeXt",
        paper_name="TransNeXt: Robust Foveal Visual Perception for Vision Transformers",
        paper_ids="arXiv:2311.17132",
        input_size=(3, size, size),
        **kwargs,
    )


WEIGHTS = Path(__file__).parent / "weights"
EMOJI_CLASSES = (
    "face",
    "mammal",
    "bird",
    "sea_animal",
    "bug",
    "plant",
    "fruit",
    "vegetable",
    "meal",
    "sweet",
    "drink",
    "hand",
    "building",
    "vehicle",
    "clock",
    "weather",
    "sport",
    "clothing",
    "music",
    "tool",
    "paper",
    "heart",
)
"""Classes of the weights `transnext_pico.emoji`."""

default_cfgs = generate_default_cfgs(
    {
        "transnext_micro.in1k": _released("transnext-micro-224-1k", 224),
        "transnext_tiny.in1k": _released("transnext-tiny-224-1k", 224),
        "transnext_small.in1k": _released("transnext-small-224-1k", 224),
        "transnext_small.in1k_384": _released("transnext-small-384-1k-ft-1k", 384, crop_pct=1.0, crop_mode="squash"),
        "transnext_base.in1k": _released("transnext-base-224-1k", 224),
        "transnext_base.in1k_384": _released("transnext-base-384-1k-ft-1k", 384, crop_pct=1.0, crop_mode="squash"),
        "transnext_micro_aaaa.in1k": _released("transnext-micro-AAAA-256-1k", 256),
        "transnext_pico.emoji": _cfg(
            file=str(WEIGHTS / "transnext_pico_emoji.safetensors"),
            input_size=(3, 64, 64),
            crop_pct=1.0,
            num_classes=len(EMOJI_CLASSES),
            label_names=EMOJI_CLASSES,
        ),
        "transnext_pico_patch2_28": _cfg(input_size=(3, 28, 28), crop_pct=1.0),
        "transnext_nano": _cfg(input_size=(3, 128, 128), crop_pct=1.0),
    }
)


GMACS = {
    "transnext_pico.emoji": 0.02,
    "transnext_pico_patch2_28": 0.02,
    "transnext_nano": 0.28,
    "transnext_micro.in1k": 2.63,
    "transnext_micro_aaaa.in1k": 3.30,
    "transnext_tiny.in1k": 5.68,
    "transnext_small.in1k": 10.24,
    "transnext_small.in1k_384": 31.86,
    "transnext_base.in1k": 18.23,
    "transnext_base.in1k_384": 55.97,
}
"""Multiply-adds of an image at the input size, as `torch.utils.flop_counter` counts them, 10^9; held so by a test."""

PRETRAIN_SIZES = {"transnext_small.in1k_384": 224, "transnext_base.in1k_384": 224}
"""Resolution of pre-training of weights that were fine-tuned at another one."""


def _create(variant: str, pretrained: bool, defaults: dict[str, Any], **kwargs: Any) -> nn.Module:
    args = {**defaults, **kwargs}
    cfg = resolve_pretrained_cfg(
        variant,
        pretrained_cfg=kwargs.get("pretrained_cfg"),
        pretrained_cfg_overlay=kwargs.get("pretrained_cfg_overlay"),
    )
    weights_size = size_pair(cfg.input_size[-2:], "input_size")
    img_size = size_pair(args.setdefault("img_size", weights_size), "img_size")
    if pretrained or img_size == weights_size:
        # Position coordinates are in units of the resolution that the weights were pre-trained at.
        args.setdefault("pretrain_size", PRETRAIN_SIZES.get(f"{variant}.{cfg.tag}", weights_size))
    # The default input size that timm reports is the one the model is made for.
    args["pretrained_cfg_overlay"] = {
        **(args.get("pretrained_cfg_overlay") or {}),
        "input_size": (args.get("in_chans", cfg.input_size[0]), *img_size),
        "pool_size": last_map_size(img_size, 8 * args.get("patch_size", 4)),
    }
    model: nn.Module = build_model_with_cfg(
        TransNeXt,
        variant,
        pretrained=False,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **args,
    )
    model.register_load_state_dict_pre_hook(accept_checkpoint_keys)
    if pretrained:
        load_pretrained_weights(model, cfg, kwargs.get("cache_dir"))
    return model


@register_model
def transnext_micro(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Micro: 12.8 M parameters."""
    defaults = {"embed_dims": (48, 96, 192, 384), "num_heads": (2, 4, 8, 16), "depths": (2, 2, 15, 2)}
    return _create("transnext_micro", pretrained, defaults, **kwargs)


@register_model
def transnext_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Tiny: 28.3 M parameters."""
    defaults = {"embed_dims": (72, 144, 288, 576), "num_heads": (3, 6, 12, 24), "depths": (2, 2, 15, 2)}
    return _create("transnext_tiny", pretrained, defaults, **kwargs)


@register_model
def transnext_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Small: 49.7 M parameters."""
    defaults = {"embed_dims": (72, 144, 288, 576), "num_heads": (3, 6, 12, 24), "depths": (5, 5, 22, 5)}
    return _create("transnext_small", pretrained, defaults, **kwargs)


@register_model
def transnext_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Base: 89.7 M parameters."""
    defaults = {"embed_dims": (96, 192, 384, 768), "num_heads": (4, 8, 16, 32), "depths": (5, 5, 23, 5)}
    return _create("transnext_base", pretrained, defaults, **kwargs)


@register_model
def transnext_micro_aaaa(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Micro with aggregated attention in all four stages: 13.1 M parameters."""
    defaults = {
        "embed_dims": (48, 96, 192, 384),
        "num_heads": (2, 4, 8, 16),
        "depths": (2, 2, 15, 2),
        "sr_ratios": (16, 8, 4, 2),
    }
    return _create("transnext_micro_aaaa", pretrained, defaults, **kwargs)


@register_model
def transnext_pico(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Pico, ours, for small images on small machines: about 1 M parameters."""
    defaults = {"embed_dims": (24, 48, 96, 192), "num_heads": (1, 2, 4, 8), "depths": (1, 1, 3, 1)}
    return _create("transnext_pico", pretrained, defaults, **kwargs)


@register_model
def transnext_pico_patch2_28(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Pico for images of about 28 pixels, ours: patches of 2 pixels, about 1 M parameters."""
    defaults = {
        "patch_size": 2,
        "embed_dims": (24, 48, 96, 192),
        "num_heads": (1, 2, 4, 8),
        "depths": (1, 2, 3, 1),
        "mlp_ratios": (4, 4, 4, 4),
    }
    return _create("transnext_pico_patch2_28", pretrained, defaults, **kwargs)


@register_model
def transnext_nano(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Nano, ours, between Pico and Micro: about 4 M parameters."""
    defaults = {"embed_dims": (24, 48, 96, 192), "num_heads": (1, 2, 4, 8), "depths": (2, 2, 20, 2)}
    return _create("transnext_nano", pretrained, defaults, **kwargs)


def trained_sizes(model: nn.Module) -> dict[str, Any]:
    """The sizes that a model was built for, as arguments of `timm.create_model`, for its checkpoints."""
    if not isinstance(model, TransNeXt):
        size: Any = getattr(getattr(model, "patch_embed", None), "img_size", None)
        usual: Mapping[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        if size is None or not usual.get("fixed_input_size") or tuple(size) == tuple(usual["input_size"][-2:]):
            return {}
        return {"img_size": tuple(size)}
    return {"img_size": model.img_size, "pretrain_size": model.pretrain_size}


def fixed_size(name: str) -> tuple[int, int] | None:
    """The size, `(H, W)` in pixels, that a model of timm takes alone unless it is built for another; None for any."""
    architecture = name.split(".")[0]
    config = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    if config is None or not config.fixed_input_size:
        return None
    height, width = config.input_size[-2:]
    return height, width


def create(name: str, args: Mapping[str, Any], **kwargs: Any) -> nn.Module:
    """`timm.create_model` with an unknown name reported in one line, and no stochastic depth where there is none.

    Raises:
        ValueError: timm knows no such model, or it has no stochastic depth and is asked for it.
    """
    if not timm.is_model(name.split(".")[0]):
        ours: Sequence[str] = timm.list_models("transnext_*")
        raise ValueError(f"no model is called {name!r}: choose one of {', '.join(ours)}, or another model of timm")
    try:
        model: nn.Module = timm.create_model(name, **args, **kwargs)
    except RuntimeError as error:
        if "tag" not in str(error):
            raise
        raise ValueError(f"{error} `transnext models` lists the weights that there are") from None
    except TypeError as error:
        if "drop_path_rate" not in str(error) or "drop_path_rate" not in args:
            raise
        if args["drop_path_rate"]:
            raise ValueError(f"{name} has no stochastic depth: use --drop-path 0") from None
        return create(name, {key: value for key, value in args.items() if key != "drop_path_rate"}, **kwargs)
    return model


def pretrain_size(name: str, checkpoint: str | Path) -> Any:
    """The resolution that the weights of a checkpoint were pre-trained at, whatever size they are to be tuned at.

    Args:
        name: Name of the model, asked where the checkpoint does not say it.
        checkpoint: The file.
    """
    saved = read_checkpoint(checkpoint).metadata.get("model_args") or {}
    # A detector or segmenter keeps the arguments of its backbone apart.
    found = saved.get("backbone", saved).get("pretrain_size")
    config = timm.get_pretrained_cfg(name)
    return found or PRETRAIN_SIZES.get(name) or (config and config.input_size[-2:])
