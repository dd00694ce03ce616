"""FFNet_seg's release: its network written out with its own names, in float64, and read back; and
fused networks of the family."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmmetaformer import convert_state_dict, export_state_dict, switch_to_deploy
from mmmetaformer.backbones.factory import build_backbone
from mmmetaformer.weights import WeightsError
from mmmetaformer.weights.convert import convert

DEPTHS, DIMS, KERNELS = (1, 2, 1, 1), (8, 16, 24, 32), (3, 3, 9, 9)
SMALL = dict(depths=DEPTHS, dims=DIMS)
BRANCHES = {3: ("conv1", "strip_conv1", "strip_conv2")}
BRANCHES[9] = ("conv1", "conv2", "strip_conv1", "strip_conv2")


def shape_of(branch: str, side: int) -> tuple[int, int]:
    shapes = {"conv1": (side, side), "conv2": (side - 4, side - 4)}
    return {**shapes, "strip_conv1": (1, side), "strip_conv2": (side, 1)}[branch]


class Release(dict):
    """The release's state dict, filled with random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)
        for index, (inside, outside) in {0: (3, 64), 2: (64, 64), 4: (64, 8), 5: (8, 8)}.items():
            self.add_conv(f"patch_embed.{index}", outside, inside, 3, 3)
        for stage, (depth, dim, side) in enumerate(zip(DEPTHS, DIMS, KERNELS, strict=True)):
            for entry in range(depth + (stage > 0)):
                prefix = f"stages.{stage}.{entry}"
                if stage and entry == 0:
                    self.add_conv(f"{prefix}.proj.0", 2 * dim, DIMS[stage - 1], 3, 3)
                    self.add_conv(f"{prefix}.proj.2", dim, 2 * dim, 1, 1)
                else:
                    self.add_block(prefix, dim, side)
        self.add_conv("head1.0", 1024, DIMS[-1], 1, 1)
        self["head2.0.weight"] = torch.zeros(1280, 1024)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.double)

    def add_conv(self, name: str, outside: int, *kernel: int) -> None:
        fan_in = kernel[0] * kernel[1] * kernel[2]
        self[f"{name}.c.weight"] = (self.random(outside, *kernel) - 0.5) * 3 / fan_in**0.5
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            self[f"{name}.bn.{leaf}"] = 0.5 + self.random(outside)
        self[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)

    def add_block(self, prefix: str, dim: int, side: int) -> None:
        main = f"{prefix}.token_mixer.0.main"
        self.add_conv(f"{main}.fc", dim, dim, 1, 1)
        for part in ("conv1", "conv2"):
            for branch in BRANCHES[side]:
                self.add_conv(f"{main}.{part}.{branch}", dim, 1, *shape_of(branch, side))
        self[f"{prefix}.token_mixer.0.layer_scale"] = self.random(dim, 1, 1)
        main = f"{prefix}.channel_mixer.main"
        self.add_conv(f"{main}.conv", dim, 1, 3, 3)
        for name, outside, inside in (("fc1", 4 * dim, dim), ("fc2", dim, 4 * dim)):
            self[f"{main}.{name}.weight"] = self.random(outside, inside, 1, 1) - 0.5
            self[f"{main}.{name}.bias"] = self.random(outside)
        self[f"{prefix}.channel_mixer.layer_scale"] = self.random(dim, 1, 1)

    def conv(self, x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight = self[f"{name}.c.weight"]
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, None, stride, padding, groups=groups)
        weight, bias, mean, var = (
            self[f"{name}.bn.{leaf}"].view(-1, 1, 1)
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def block(self, x: torch.Tensor, prefix: str, side: int) -> torch.Tensor:
        main = f"{prefix}.token_mixer.0.main"
        y = self.conv(x, f"{main}.fc")
        y = sum(self.conv(y, f"{main}.conv1.{branch}") for branch in BRANCHES[side])
        y = sum(self.conv(F.gelu(y), f"{main}.conv2.{branch}") for branch in BRANCHES[side])
        x = x + y * self[f"{prefix}.token_mixer.0.layer_scale"]
        main = f"{prefix}.channel_mixer.main"
        y = self.conv(x, f"{main}.conv")
        y = F.gelu(F.conv2d(y, self[f"{main}.fc1.weight"], self[f"{main}.fc1.bias"]))
        y = F.conv2d(y, self[f"{main}.fc2.weight"], self[f"{main}.fc2.bias"])
        return x + y * self[f"{prefix}.channel_mixer.layer_scale"]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = F.gelu(self.conv(x, "patch_embed.0", 2))
        x = F.gelu(self.conv(x, "patch_embed.2"))
        x = self.conv(self.conv(x, "patch_embed.4"), "patch_embed.5", 2)
        maps = []
        for stage, (depth, side) in enumerate(zip(DEPTHS, KERNELS, strict=True)):
            if stage:
                x = F.gelu(self.conv(x, f"stages.{stage}.0.proj.0", 2))
                x = self.conv(x, f"stages.{stage}.0.proj.2")
            for block in range(depth):
                x = self.block(x, f"stages.{stage}.{block + (stage > 0)}", side)
            maps.append(x)
        return maps[1:]


@pytest.mark.parametrize("fuse", [False, True])
def test_the_network_is_the_published_one(fuse):
    release = Release()
    backbone = build_backbone("ffnet_seg", out_indices=(1, 2, 3), **SMALL).double().eval()
    backbone.load_state_dict(convert_state_dict(release, backbone), strict=True)
    backbone = switch_to_deploy(backbone) if fuse else backbone
    x = torch.randn(2, 3, 61, 96, dtype=torch.double)
    with torch.no_grad():
        for ours, published in zip(backbone(x), release.forward(x), strict=True):
            torch.testing.assert_close(ours, published, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_account_of_the_keys(wrapper):
    release = Release()
    backbone = build_backbone("ffnet_seg", out_indices=(1, 2, 3), **SMALL)
    result = convert({wrapper: dict(release)} if wrapper else release, backbone)
    assert result.layout == "FFNet_seg" and result.new == []
    assert set(result.state_dict) == set(backbone.state_dict())
    heads = [name for name in release if name.startswith("head")]
    assert result.dropped == {"classifier": heads}


def test_inside_of_a_segmentor():
    release = {f"backbone.{name}": value for name, value in Release().items()}
    release["decode_head.conv_seg.weight"] = torch.zeros(1)
    backbone = build_backbone("ffnet_seg", out_indices=(1, 2, 3), **SMALL)
    result = convert(dict(state_dict=release), backbone)
    assert result.dropped["outside of the backbone"] == ["decode_head.conv_seg.weight"]
    assert set(result.state_dict) == set(backbone.state_dict())


# ---------------------------------------------------------------- fused networks


DIMS_OF_FFNET = (8, 16, 32, 64)


@pytest.fixture
def both():
    """FFNet-1 as it is trained, and fused."""
    trained, fused = (build_backbone("ffnet_1", **SMALL | dict(dims=DIMS_OF_FFNET)).eval()
                      for _ in range(2))  # fmt: skip
    return trained, fused.switch_to_deploy()


def test_a_fused_backbone_does_not_take_what_was_trained(both):
    trained, fused = both
    published = export_state_dict(trained.state_dict(), "published")
    assert len(convert(published, trained).state_dict) == len(trained.state_dict())
    with pytest.raises(WeightsError, match="missing"):
        convert(published, fused)


def test_a_fused_file_says_that_it_is_one(both):
    trained, fused = both
    with pytest.raises(WeightsError, match=r"fused network: call switch_to_deploy\(\)"):
        convert(fused.state_dict(), trained)


def test_our_own_layout_is_known_before_and_after_fusing(both):
    for backbone in both:
        result = convert(backbone.state_dict(), backbone)
        assert result.layout == "mmmetaformer" and result.new == []
