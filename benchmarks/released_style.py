"""TransNeXt written in the style of the released research code, as a baseline for speed and memory.

    python benchmarks/released_style.py --size 224 --batch-size 8

The numbers are those of `transnext.TransNeXt`, from the same parameters with the same names. What differs is how they
are computed: tokens `[B, N, C]` that are permuted to images and back around each convolution, copies of the
neighbourhood of every key and value (`unfold`), a list of all query-key coordinates that is sorted once for each size,
a position bias of all pairs gathered in every block and every call, and attention matrices in memory.

Shape legend: `B` batch, `N = H * W` pixels, `C` channels, `M` heads, `D = C / M`, `K` window positions,
`P` pooled keys.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from transnext.bench.measure import Timed, run_rounds
from transnext.bench.workload import DtypeName, Workload

WINDOW = 3
K = WINDOW * WINDOW


class Geometry(NamedTuple):
    """What a stage derives from its size."""

    coordinates: Tensor
    """Distinct log-spaced coordinates of query-key pairs, `[T, 2]`."""
    entry: Tensor
    """The entry of each pair, `[N * P]` int64."""
    outside: Tensor
    """Which neighbours lie outside the map, `[N, K]` bool."""
    log_length: Tensor
    """Logarithm of the number of keys of each query, `[N, 1]`."""


def geometry_of(size: tuple[int, int], pool: tuple[int, int], scale: tuple[float, float], window: bool) -> Geometry:
    """Coordinates of all pairs, sorted; mask and lengths.

    Args:
        size: Rows and columns of the map.
        pool: Rows and columns of the keys.
        scale: Rows and columns of the map at the pre-training resolution, minus 1.
        window: Whether queries also see their neighbourhood.
    """
    queries = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij"))
    keys = F.adaptive_avg_pool2d(queries, pool).flatten(1)
    offsets = (queries.flatten(1)[:, :, None] - keys[:, None, :]).flatten(1).T  # [N * P, 2]
    scaled = 8 * offsets / torch.tensor(scale)
    spaced = scaled.sign() * torch.log2(1 + scaled.abs()) / math.log2(8)
    coordinates, entry = torch.unique(spaced, dim=0, return_inverse=True)
    inside = F.unfold(torch.ones(1, 1, *size), WINDOW, padding=WINDOW // 2)[0].T  # [N, K]
    length = pool[0] * pool[1] + (inside.sum(1, keepdim=True) if window else 0 * inside[:, :1])
    return Geometry(coordinates, entry, inside == 0, length.log())


class Attention(nn.Module):
    """What both mixers share."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.full((heads, 1, 1), math.log(math.exp(1 / 0.24) - 1)))
        self.query_embedding = nn.Parameter(0.02 * torch.randn(heads, 1, dim // heads))
        self.cpb_fc1 = nn.Linear(2, 512)
        self.cpb_fc2 = nn.Linear(512, heads)
        self.proj = nn.Linear(dim, dim)

    def bias(self, geometry: Geometry, queries: int) -> Tensor:
        """Position bias of all pairs, `[M, N, P]`."""
        table = self.cpb_fc2(F.relu(self.cpb_fc1(geometry.coordinates)))
        return table.T[:, geometry.entry].reshape(self.heads, queries, -1)

    def scaled(self, qn: Tensor, geometry: Geometry) -> Tensor:
        """Normalised queries `[B, M, N, D]` with their embedding and scale."""
        return (qn + self.query_embedding) * F.softplus(self.temperature) * geometry.log_length

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """`[B, N, parts * C]` to `parts` tensors `[B, M, N, D]`."""
        B, N, _ = x.shape
        return x.reshape(B, N, parts * self.heads, -1).permute(0, 2, 1, 3).chunk(parts, dim=1)


class AggregatedAttention(Attention):
    """Window and pooled keys under one softmax."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.sr = nn.Conv2d(dim, dim, 1)
        self.norm = nn.LayerNorm(dim)
        self.relative_pos_bias_local = nn.Parameter(0.0004 * torch.randn(heads, K))
        self.learnable_tokens = nn.Parameter(0.02 * torch.randn(heads, dim // heads, K))
        self.learnable_bias = nn.Parameter(torch.zeros(heads, 1, K))

    def forward(self, x: Tensor, size: tuple[int, int], pool: tuple[int, int], geometry: Geometry) -> Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        B, N, C = x.shape
        M, D = self.heads, C // self.heads
        qn = F.normalize(self.split(self.q(x), 1)[0], dim=-1)
        qs = self.scaled(qn, geometry)

        k, v = self.split(self.kv(x), 2)
        window_k, window_v = (self._neighbours(t, size) for t in (F.normalize(k, dim=-1), v))  # [B, M, N, D, K]
        local = (qs.unsqueeze(-2) @ window_k).squeeze(-2) + self.relative_pos_bias_local.unsqueeze(1)
        local = local.masked_fill(geometry.outside, -math.inf)

        image = x.permute(0, 2, 1).reshape(B, C, *size)
        pooled = F.adaptive_avg_pool2d(F.gelu(self.sr(image)), pool).reshape(B, C, -1).permute(0, 2, 1)
        pool_k, pool_v = self.split(self.kv(self.norm(pooled)), 2)
        logits = qs @ F.normalize(pool_k, dim=-1).transpose(-2, -1) + self.bias(geometry, N)

        local, distant = torch.cat([local, logits], dim=-1).softmax(dim=-1).split([K, logits.shape[-1]], dim=-1)
        local = qn @ self.learnable_tokens + self.learnable_bias + local
        near = (local.unsqueeze(-2) @ window_v.transpose(-2, -1)).squeeze(-2)
        return self.proj((near + distant @ pool_v).transpose(1, 2).reshape(B, N, M * D))

    def _neighbours(self, t: Tensor, size: tuple[int, int]) -> Tensor:
        B, M, N, D = t.shape
        image = t.permute(0, 1, 3, 2).reshape(B, M * D, *size)
        return F.unfold(image, WINDOW, padding=WINDOW // 2).reshape(B, M, D, K, N).permute(0, 1, 4, 2, 3)


class GlobalAttention(Attention):
    """Cosine attention of every pixel to every pixel."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor, size: tuple[int, int], pool: tuple[int, int], geometry: Geometry) -> Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        q, k, v = self.split(self.qkv(x), 3)
        qs = self.scaled(F.normalize(q, dim=-1), geometry)
        weights = (qs @ F.normalize(k, dim=-1).transpose(-2, -1) + self.bias(geometry, x.shape[1])).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(x.shape))


class ConvGLU(nn.Module):
    """Convolutional gated linear unit."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        hidden = int(2 / 3 * ratio * dim)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        a, gate = self.fc1(x).chunk(2, dim=-1)
        B, _, C = a.shape
        a = self.dwconv(a.transpose(1, 2).reshape(B, C, *size).contiguous()).flatten(2).transpose(1, 2)
        return self.fc2(F.gelu(a) * gate)


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, dim: int, heads: int, ratio: float, sr_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = GlobalAttention(dim, heads) if sr_ratio == 1 else AggregatedAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = ConvGLU(dim, ratio)

    def forward(self, x: Tensor, size: tuple[int, int], pool: tuple[int, int], geometry: Geometry) -> Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        x = x + self.attn(self.norm1(x), size, pool, geometry)
        return x + self.mlp(self.norm2(x), size)


class PatchEmbed(nn.Module):
    """Strided convolution and norm: an image to tokens."""

    def __init__(self, in_chans: int, dim: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, 2 * stride - 1, stride, stride - 1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """`[B, C_in, H_in, W_in]` to `[B, N, C]` and `(H, W)`."""
        x = self.proj(x)
        size = (x.shape[2], x.shape[3])
        return self.norm(x.flatten(2).transpose(1, 2)), size


class Stage(nn.Module):
    """Patch embedding, blocks, norm."""

    def __init__(
        self,
        in_chans: int,
        dim: int,
        stride: int,
        depth: int,
        heads: int,
        ratio: float,
        sr_ratio: int,
        scale: tuple[float, float],
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(in_chans, dim, stride)
        self.blocks = nn.ModuleList(Block(dim, heads, ratio, sr_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.sr_ratio = sr_ratio
        self.scale = scale
        self._geometries: dict[tuple[int, int], Geometry] = {}

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C_in, H_in, W_in]` to `[B, C, H, W]`."""
        x, size = self.patch_embed(x)
        pool = (max(1, size[0] // self.sr_ratio), max(1, size[1] // self.sr_ratio))
        if size not in self._geometries:
            # Not inference tensors: the model may be trained afterwards.
            with torch.inference_mode(False), torch.device("cpu"):
                made = geometry_of(size, pool, self.scale, window=self.sr_ratio > 1)
                self._geometries[size] = Geometry(*(t.to(x.device) for t in made))
        for block in self.blocks:
            x = block(x, size, pool, self._geometries[size])
        return self.norm(x).transpose(1, 2).reshape(len(x), -1, *size).contiguous()


class ReleasedStyleTransNeXt(nn.Module):
    """TransNeXt with the outputs of `transnext.TransNeXt` and the costs of the released code.

    It loads the state dict of a `transnext.TransNeXt` of the same configuration. Only the extrapolating mode exists.

    Args:
        embed_dims: Channels of each stage.
        num_heads: Heads of each stage.
        mlp_ratios: Expansion of the convolutional GLU of each stage.
        depths: Blocks of each stage.
        sr_ratios: Ratio of map to pooled grid of each stage; 1 for global attention.
        num_classes: Classes.
        pretrain_size: Resolution of pre-training, pixels.
    """

    def __init__(
        self,
        embed_dims: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        depths: Sequence[int] = (2, 2, 15, 2),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        num_classes: int = 1000,
        pretrain_size: int = 224,
    ) -> None:
        super().__init__()
        stages = []
        in_chans, reduction = 3, 1
        for i, dim in enumerate(embed_dims):
            stride = 4 if i == 0 else 2
            reduction *= stride
            scale = max(pretrain_size / reduction - 1, 1.0)
            stages.append(
                Stage(in_chans, dim, stride, depths[i], num_heads[i], mlp_ratios[i], sr_ratios[i], scale=(scale, scale))
            )
            in_chans = dim
        self.stages = nn.ModuleList(stages)
        self.head = nn.ModuleDict({"fc": nn.Linear(in_chans, num_classes)})

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` to logits `[B, num_classes]`."""
        for stage in self.stages:
            x = stage(x)
        return self.head["fc"](x.flatten(2).mean(-1))


def released_style_tiny() -> ReleasedStyleTransNeXt:
    """TransNeXt-Tiny in that style, with random weights."""
    return ReleasedStyleTransNeXt(embed_dims=(72, 144, 288, 576), num_heads=(3, 6, 12, 24))


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    size: int = 224
    """Side of the images, pixels."""
    batch_size: int = 8
    """Images in a call."""
    rounds: int = 10
    """Calls of each model, in turn."""
    train: bool = False
    """Forward, loss and backward instead of forward alone."""
    dtype: DtypeName = "float32"
    """Arithmetic: float32, or autocast to bfloat16 or float16."""
    device: str = "cpu"
    """cpu or cuda."""


def main(options: Options) -> None:
    workload = Workload(
        model="transnext_tiny",
        mode="extrapolate",
        size=(options.size, options.size),
        batch_size=options.batch_size,
        train=options.train,
        dtype=options.dtype,
        device=options.device,
    )
    ours = timm.create_model("transnext_tiny").to(options.device).train(options.train)
    released = released_style_tiny().to(options.device).train(options.train)
    released.load_state_dict(ours.state_dict())
    timed = {name: Timed(step=workload.step(m)) for name, m in (("transnext_tiny", ours), ("released style", released))}
    for item in timed.values():
        item.step()
        item.step()
    run_rounds(list(timed.values()), options.rounds, options.device)
    for name, item in timed.items():
        rates = sorted(options.batch_size / seconds for seconds in item.seconds)
        print(f"{name:16} {statistics.median(rates):7.2f} images/s (slowest {rates[0]:.2f}, fastest {rates[-1]:.2f})")
    first, second = (item.seconds for item in timed.values())
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    print(f"transnext_tiny is {statistics.median(ratios):.2f} times as fast, median of {len(ratios)} rounds")


if __name__ == "__main__":
    main(tyro.cli(Options))
