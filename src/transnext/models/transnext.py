"""The network: four stages of overlapping patch embedding, blocks and a norm, and a classifier.

Shape legend: `B` batch, `H W` height and width, `C` channels. Maps inside are channels-last `[B, H, W, C]`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from timm.layers import ClassifierHead, trunc_normal_
from timm.models._features import feature_take_indices
from timm.models._manipulate import checkpoint
from torch import Tensor, nn

from transnext.choices import Mode
from transnext.models import gpu
from transnext.models.attention import AggregatedAttention, GlobalCosineAttention, Mixer
from transnext.models.fast import FastBlock
from transnext.models.layers import Block, ConvGLU, DepthwiseGate, PatchEmbed
from transnext.models.official import adapt_official_keys
from transnext.models.position_bias import BIAS_MODES, BiasMode, StageGeometry
from transnext.ops import Backend
from transnext.ops.backend import check_backend

MixerName = Literal["aggregated", "global"]
MODES: tuple[Mode, ...] = get_args(Mode)
NO_WEIGHT_DECAY = ("cpb", "query_embedding", "relative_pos_bias_local", "temperature")
"""Parameters whose name contains one of these are not decayed (the released training code)."""

LayerNorm = partial(nn.LayerNorm, eps=1e-6)
"""The norm of blocks and stages; those of patch embeddings and pooled keys have PyTorch's own eps, 1e-5."""


class Stage(nn.Module):
    """Patch embedding, blocks and the norm after them.

    Args:
        patch_embed: Makes the map of the stage.
        blocks: The blocks, in order.
        norm: Norm of the stage's output.
    """

    def __init__(self, patch_embed: PatchEmbed, blocks: Sequence[Block], norm: nn.Module) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, C_in]` to the normed map `[B, ceil(H / stride), ceil(W / stride), C]`."""
        x = self.patch_embed(x)
        recomputed = self.grad_checkpointing and torch.is_grad_enabled()
        if not recomputed and gpu.goes(self.blocks, x, FastBlock):
            return self.norm(gpu.run_blocks(self.blocks, x))
        for block in self.blocks:
            x = checkpoint(block, x) if recomputed else block(x)
        return self.norm(x)


class TransNeXt(nn.Module):
    """TransNeXt (Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024).

    Takes images of any size, square or not, a different one on every call.

    Args:
        img_size: Trained image size, pixels, one number or `(H, W)`. The interpolating mode resizes the position bias
            from there, and it is the default input size; it never limits what the model accepts.
        patch_size: Stride of the first patch embedding, pixels.
        in_chans: Channels of the image.
        num_classes: Classes; 0 for no classifier.
        global_pool: Pooling before the classifier, as in timm: "avg", "max", "avgmax", "catavgmax" or "".
        embed_dims: Channels of each stage.
        num_heads: Heads of each stage.
        mlp_ratios: Expansion of the convolutional GLU of each stage.
        qkv_bias: Whether the projections to queries, keys and values have a bias.
        drop_rate: Dropout before the classifier.
        proj_drop_rate: Dropout after the mixer and in the convolutional GLU.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0 over all blocks.
        norm_layer: Norms of blocks and stages.
        depths: Blocks of each stage.
        sr_ratios: Ratio of map to pooled grid in each stage.
        window_size: Side of the window of each aggregated stage, odd; one number for all, None for global stages.
        mixers: "aggregated" or "global" for each stage; by default global where `sr_ratios` is 1.
        pretrain_size: Resolution of pre-training, the unit of position coordinates, pixels; `img_size` by default.
        fixed_pool_size: Pooled grid whatever the input (linear mode), one number or `(rows, columns)`; None to follow
            the input. May be changed on a live model.
        bias_mode: "extrapolate" computes the position bias for the actual size; "interpolate" computes it at the
            trained size and resizes it. May be changed on a live model.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        ValueError: Arguments that do not fit one another.
    """

    output_fmt = "NHWC"

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (48, 96, 192, 384),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: Callable[..., nn.Module] = LayerNorm,
        depths: Sequence[int] = (2, 2, 15, 2),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        window_size: int | Sequence[int | None] = 3,
        mixers: Sequence[MixerName] | None = None,
        pretrain_size: int | tuple[int, int] | None = None,
        fixed_pool_size: int | tuple[int, int] | None = None,
        bias_mode: BiasMode = "extrapolate",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        num_stages = len(depths)
        windows = [window_size] * num_stages if isinstance(window_size, int) else list(window_size)
        mixer_names = list(mixers) if mixers is not None else ["global" if r == 1 else "aggregated" for r in sr_ratios]
        per_stage = {
            "embed_dims": embed_dims,
            "num_heads": num_heads,
            "mlp_ratios": mlp_ratios,
            "sr_ratios": sr_ratios,
            "window_size": windows,
            "mixers": mixer_names,
        }
        for name, values in per_stage.items():
            if len(values) != num_stages:
                raise ValueError(f"{name} has {len(values)} entries, but depths has {num_stages}: one for each stage")

        self.num_classes = num_classes
        self.in_chans = in_chans
        self.global_pool = global_pool
        self.num_features = embed_dims[-1]
        self.feature_info: list[dict[str, Any]] = []
        self.img_size = size_pair(img_size, "img_size")
        pretrain = self.img_size if pretrain_size is None else size_pair(pretrain_size, "pretrain_size")
        self.pretrain_size = pretrain

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        stages = []
        size, reduction = self.img_size, 1
        for i in range(num_stages):
            stride = patch_size if i == 0 else 2
            size = (math.ceil(size[0] / stride), math.ceil(size[1] / stride))
            reduction *= stride
            # A pre-training map of one pixel has no extent to measure offsets with: they are then left in pixels.
            scale = (max(pretrain[0] / reduction - 1, 1.0), max(pretrain[1] / reduction - 1, 1.0))
            geometry = StageGeometry(trained_size=size, pretrain_scale=scale)
            dim = embed_dims[i]
            make_mixer = _mixer_factory(
                mixer_names[i],
                windows[i],
                sr_ratios[i],
                dim=dim,
                num_heads=num_heads[i],
                geometry=geometry,
                qkv_bias=qkv_bias,
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
                **factory,
            )
            blocks = [
                FastBlock(
                    make_mixer(),
                    ConvGLU(dim, mlp_ratios[i], drop=proj_drop_rate, **factory),
                    dim,
                    norm_layer,
                    drop_path=next(drop_paths),
                    **factory,
                )
                for _ in range(depths[i])
            ]
            embed = PatchEmbed(in_chans if i == 0 else embed_dims[i - 1], dim, stride, **factory)
            stages.append(Stage(embed, blocks, norm_layer(dim, **factory)))
            self.feature_info.append({"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"})
        self.stages = nn.ModuleList(stages)
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, input_fmt="NHWC", **factory
        )
        self.head_hidden_size = self.head.num_features
        self.backend = "auto"
        self.bias_mode = bias_mode
        self.fixed_pool_size = fixed_pool_size
        self.register_load_state_dict_pre_hook(_accept_official_keys)
        self.init_weights()

    # Modes, switchable on a live model

    def _mixers(self) -> list[Mixer]:
        return [m for m in self.modules() if isinstance(m, Mixer)]

    @property
    def bias_mode(self) -> BiasMode:
        """Way in which the position bias follows the input size: "extrapolate" or "interpolate"."""
        return self._bias_mode

    @bias_mode.setter
    def bias_mode(self, mode: BiasMode) -> None:
        if mode not in BIAS_MODES:
            raise ValueError(f"bias_mode is {mode!r}: expected one of {', '.join(map(repr, BIAS_MODES))}")
        self._bias_mode = mode
        for mixer in self._mixers():
            mixer.bias_mode = mode

    @property
    def fixed_pool_size(self) -> tuple[int, int] | None:
        """The pooled grid `(rows, columns)` of the linear mode; None when it follows the input."""
        return self._fixed_pool_size

    @fixed_pool_size.setter
    def fixed_pool_size(self, size: int | tuple[int, int] | None) -> None:
        self._fixed_pool_size = None if size is None else size_pair(size, "fixed_pool_size")
        for mixer in self._mixers():
            if isinstance(mixer, AggregatedAttention):
                mixer.fixed_pool_size = self._fixed_pool_size

    @property
    def trained_pool_size(self) -> tuple[int, int] | None:
        """The pooled grid at `img_size`, rows and columns; None if nothing is pooled."""
        for mixer in self._mixers():
            if isinstance(mixer, AggregatedAttention):
                rows, cols = mixer.geometry.trained_size
                return max(1, rows // mixer.sr_ratio), max(1, cols // mixer.sr_ratio)
        return None

    @property
    def mode(self) -> Mode:
        """Way in which the model follows the image size: `bias_mode`, or "linear" where the pooled grid is fixed.

        Set to "linear", it extrapolates from the pooled grid of the trained size, whatever the input.
        """
        return self.bias_mode if self.fixed_pool_size is None else "linear"

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}: expected one of {', '.join(map(repr, MODES))}")
        size = self.trained_pool_size
        if mode == "linear" and size is None:
            raise ValueError(
                "mode is 'linear', but this model pools nothing: it has no stage with aggregated attention"
            )
        self.bias_mode = "extrapolate" if mode == "linear" else mode
        self.fixed_pool_size = size if mode == "linear" else None

    @property
    def backend(self) -> Backend:
        """Implementation of the ops and blocks: "auto", "fused" (an error where it cannot) or "reference"."""
        return self._backend

    @backend.setter
    def backend(self, backend: Backend) -> None:
        check_backend(backend)
        self._backend = backend
        for module in self.modules():
            if isinstance(module, FastBlock | Mixer | DepthwiseGate):
                module.backend = backend

    # Weights

    def init_weights(self, needs_reset: bool = True) -> None:
        """Sets the initial values of the released training code.

        Args:
            needs_reset: Whether to reset norms too, as after `to_empty()`; they are cheap, so they always are.
        """
        self.apply(_init_weights)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters not to decay, beside biases and one-dimensional ones."""
        return {name for name, _ in self.named_parameters() if any(word in name for word in NO_WEIGHT_DECAY)}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that give each parameter its layer, for layer-wise learning rates.

        Args:
            coarse: One group for each stage instead of each block.
        """
        blocks: Any = r"^stages\.(\d+)"
        if not coarse:
            blocks = [
                (r"^stages\.(\d+)\.patch_embed", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.norm", (99999,)),
            ]
        return {"stem": r"^stages\.0\.patch_embed", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Changes the default input size. Nothing is rebuilt: the model takes any size as it is.

        The trained size of the interpolating mode belongs to the weights and stays.

        Args:
            img_size: Pixels, one number or `(H, W)`.
        """
        size = size_pair(img_size, "img_size")
        cfg = dict(
            getattr(self, "pretrained_cfg", {}),
            input_size=(self.in_chans, *size),
            pool_size=last_map_size(size, self.feature_info[-1]["reduction"]),
        )
        self.pretrained_cfg = self.default_cfg = cfg
        self._traits = dict(getattr(self, "_traits", {}), img_size=size)

    # Classifier

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The final Linear."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new one.

        Args:
            num_classes: Classes; 0 to remove it.
            global_pool: New pooling; unchanged if None.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        if num_classes > 0:
            _init_weights(self.head.fc)
        self.head_hidden_size = self.head.num_features
        if global_pool is not None:
            self.global_pool = global_pool

    # Forward

    def forward_features(self, x: Tensor) -> Tensor:
        """Images `[B, in_chans, H, W]` to the normed map of the last stage, `[B, H', W', C]`."""
        x = x.permute(0, 2, 3, 1)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map `[B, H', W', C]` to logits `[B, num_classes]`.

        Args:
            x: What `forward_features` gives.
            pre_logits: Return the pooled features instead, `[B, head_hidden_size]`.
        """
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, in_chans, H, W]`, floating point, normalised, to logits `[B, num_classes]`."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of several stages, each after the norm of its stage.

        Args:
            x: Images `[B, in_chans, H, W]`.
            indices: Stages: the last n if a number, those listed, or all if None.
            norm: Accepted for timm's sake; every stage has its own norm, so maps are always normed.
            stop_early: Leave out stages after the last one asked for.
            output_fmt: "NCHW" or "NHWC", of the intermediates.
            intermediates_only: Return the list alone.

        Returns:
            The list of maps, preceded by the last map computed, `[B, H', W', C]`, unless `intermediates_only`.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt is {output_fmt!r}: expected 'NCHW' or 'NHWC'")
        take, last = feature_take_indices(len(self.stages), indices)
        x = x.permute(0, 2, 3, 1)
        intermediates = []
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if i in take:
                intermediates.append(x.permute(0, 3, 1, 2).contiguous() if output_fmt == "NCHW" else x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the stages after the last one asked for.

        Args:
            indices: Stages to keep the maps of, as in `forward_intermediates`.
            prune_norm: Accepted for timm's sake; the norm of a stage is part of its map and stays.
            prune_head: Remove the classifier too; it always goes when the last stage does.

        Returns:
            The stages asked for, counted from the first.
        """
        take, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if shortened:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
            self.head.in_features = self.num_features
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return take

    def __prepare_scriptable__(self) -> nn.Module:
        """Called by `torch.jit.script`, which PyTorch has deprecated and which this model does not support."""
        raise TypeError("TransNeXt does not support torch.jit.script: use torch.compile or torch.export instead")


def _mixer_factory(
    name: str, window_size: int | None, sr_ratio: int, dim: int, num_heads: int, geometry: StageGeometry, **kwargs: Any
) -> Callable[[], Mixer]:
    if name == "global":
        return partial(GlobalCosineAttention, dim, num_heads, geometry, **kwargs)
    if name != "aggregated":
        raise ValueError(f"mixers has the entry {name!r}: expected 'aggregated' or 'global'")
    if window_size is None:
        raise ValueError("window_size is None for a stage with aggregated attention: give an odd number")
    return partial(AggregatedAttention, dim, num_heads, geometry, window_size=window_size, sr_ratio=sr_ratio, **kwargs)


def size_pair(size: int | Sequence[int], name: str) -> tuple[int, int]:
    """`(H, W)` of an argument that may be one number for both.

    Args:
        size: What the user gave.
        name: Name of the argument, for the error.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name} is {size!r}: expected a positive number or a pair of them")
    return pair[0], pair[1]


def last_map_size(img_size: tuple[int, int], reduction: int) -> tuple[int, int]:
    """Rows and columns of the last map of an image, which timm calls `pool_size`."""
    return math.ceil(img_size[0] / reduction), math.ceil(img_size[1] / reduction)


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0, math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Mixer):
        module.init_own_weights()
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()


def _accept_official_keys(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Lets `load_state_dict` take the released names as well as ours."""
    adapt_official_keys(state_dict, prefix)
