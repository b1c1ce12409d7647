"""Strided depthwise convolutions with a gradient of their own."""

from __future__ import annotations

import copy
from unittest.mock import patch

import pytest
import torch
from torch import nn

from boneage.models.backbones import Backbone
from boneage.models.depthwise import StridedDepthwise, hasten_strided_depthwise


def gradients(module: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Output, and the gradients of the images and of all parameters."""
    images = images.clone().requires_grad_()
    output = module(images)
    torch.manual_seed(1)
    (output * torch.randn_like(output)).sum().backward()
    return output.detach(), [images.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
@pytest.mark.parametrize("kernel", [3, 5, (3, 5)])
@pytest.mark.parametrize("size", [(12, 12), (13, 8)])
@pytest.mark.parametrize("bias", [False, True])
def test_output_and_gradients(
    stride: int | tuple[int, int],
    kernel: int | tuple[int, int],
    size: tuple[int, int],
    bias: bool,
) -> None:
    torch.manual_seed(0)
    height, width = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    plain = nn.Conv2d(6, 6, kernel, stride, (height // 2, width // 2), groups=6, bias=bias).double()
    hastened = copy.deepcopy(plain)
    hastened._conv_forward = lambda *arguments: StridedDepthwise.apply(
        *arguments, plain.stride, plain.padding
    )
    images = torch.randn(2, 6, *size, dtype=torch.float64)
    for expected, found in zip(
        *(gradients(network, images) for network in (plain, hastened)), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(6, 6, 3, 1, 1, groups=6),
        nn.Conv2d(6, 6, 3, 2, 1),
        nn.Conv2d(6, 12, 3, 2, 1, groups=6),
        nn.Conv2d(6, 6, 3, 2, 1, groups=3),
        nn.Conv2d(6, 6, 3, 2, 0, groups=6),
        nn.Conv2d(6, 6, 2, 2, 1, groups=6),
        nn.Conv2d(6, 6, 3, 2, 1, groups=6, dilation=2),
        nn.Conv2d(6, 6, 3, 2, 1, groups=6, padding_mode="circular"),
    ],
)
def test_other_convolutions_stay(other: nn.Conv2d) -> None:
    hasten_strided_depthwise(other)
    assert "_conv_forward" not in vars(other)


def test_those_of_mobilenet() -> None:
    backbone = Backbone("mobilenet_v2")
    hasten_strided_depthwise(backbone)
    assert sum("_conv_forward" in vars(module) for module in backbone.modules()) == 4


def test_in_mixed_precision() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(32, 32, 3, 2, 1, groups=32)
    hastened = copy.deepcopy(plain)
    hasten_strided_depthwise(hastened)
    images = torch.randn(2, 32, 24, 24).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        expected, before = gradients(plain, images)
        with patch.object(StridedDepthwise, "apply", wraps=StridedDepthwise.apply) as applied:
            found, after = gradients(hastened, images)
    applied.assert_called_once()
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    for one, other in zip(before, after, strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=0.02, atol=0.02 * one.abs().max().item())


def test_plain_in_fp32() -> None:
    convolution = nn.Conv2d(6, 6, 3, 2, 1, groups=6)
    images = torch.randn(1, 6, 8, 8)
    expected = convolution(images)
    hasten_strided_depthwise(convolution)
    with patch.object(StridedDepthwise, "apply") as applied:
        assert torch.equal(convolution(images), expected)
    applied.assert_not_called()


def test_a_copy_computes_with_its_own_weights() -> None:
    convolution = nn.Conv2d(6, 6, 3, 2, 1, groups=6)
    hasten_strided_depthwise(convolution)
    copied = copy.deepcopy(convolution)
    images = torch.randn(1, 6, 8, 8)
    with torch.no_grad():
        before = convolution(images)
        for parameter in copied.parameters():
            parameter.zero_()
        assert torch.equal(convolution(images), before)
        assert not copied(images).any()
