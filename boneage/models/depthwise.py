"""Strided depthwise convolutions whose gradient is computed fast in bf16 on processors."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def hasten_strided_depthwise(module: nn.Module) -> None:
    """Have strided depthwise convolutions in bf16 on a processor use :class:`StridedDepthwise`.

    Their gradient takes torch ten times and more as long there as that of unstrided ones; in a
    training of MobileNetV2 that was a fifth of the time. Function and gradients stay the same but
    for rounding, and so do all parameters and their names.

    Args:
        module: changed in place.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d) and _is_strided_depthwise(child):
            child._conv_forward = partial(_convolve, child.stride, child.padding)


def _is_strided_depthwise(convolution: nn.Conv2d) -> bool:
    """Whether it is one that :class:`StridedDepthwise` computes."""
    kernel = convolution.kernel_size
    return (
        convolution.groups == convolution.in_channels == convolution.out_channels
        and max(convolution.stride) > 1
        and convolution.padding == tuple(side // 2 for side in kernel)
        and all(side % 2 for side in kernel)
        and convolution.dilation == (1, 1)
        and convolution.padding_mode == "zeros"
    )


def _convolve(
    stride: tuple[int, int],
    padding: tuple[int, int],
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """``Conv2d._conv_forward`` of a strided depthwise convolution."""
    if images.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.conv2d(images, weight, bias, stride, padding, groups=len(weight))
    kind = torch.get_autocast_dtype("cpu")  # autocast does not look into a Function
    bias = None if bias is None else bias.to(kind)
    return StridedDepthwise.apply(images.to(kind), weight.to(kind), bias, stride, padding)


class StridedDepthwise(torch.autograd.Function):
    """A depthwise convolution with odd kernel sides and half of them as padding, of any stride.

    ``apply`` takes images (N, C, H, W), weight (C, 1, kh, kw) and bias (C,) or ``None``, all of one
    dtype, strides (sh, sw) and padding (kh // 2, kw // 2), and returns
    (N, C, ceil(H / sh), ceil(W / sw)).
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        images, weight = ctx.saved_tensors
        stride, padding, groups = ctx.stride, ctx.padding, len(weight)
        of_images, *of_parameters = ctx.needs_input_grad[:3]
        spread = None
        if of_images:
            # Between the places that were looked at lie zeros; around each the kernel is turned.
            spread = torch.zeros_like(images)
            spread[..., :: stride[0], :: stride[1]] = gradient
            spread = F.conv2d(spread, weight.flip(2, 3), padding=padding, groups=groups)
        _, kernel, summand = torch.ops.aten.convolution_backward(
            gradient,
            images,
            weight,
            [groups],
            stride,
            padding,
            (1, 1),
            False,  # not transposed
            (0, 0),
            groups,
            [False, *of_parameters],
        )
        return spread, kernel, summand, None, None
