"""The same networks with torch's own layers in place of fastseg's, to race against."""

from importlib import import_module
from types import FunctionType
from typing import Any


def plain_torch(model: Any) -> Any:
    """A copy of ``model`` in which ``torch.nn.Conv2d`` and ``F.interpolate`` do all the work.

    ``model`` is in evaluation mode, and so is the copy: do not switch it.
    """
    torch = import_module("torch")
    blocks = import_module("fastseg.nn")
    nn = torch.nn

    def conv_of(layer: Any) -> Any:
        rate, padding, stride, groups = layer.geometry
        top, bottom, left, right = padding
        uneven = top != bottom or left != right
        conv = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride,
            0 if uneven else (top, left),
            rate,
            groups,
            bias=layer.bias is not None,
        )
        conv.weight, conv.bias = layer.weight, layer.bias
        return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv) if uneven else conv

    def activated(output: Any, activation: str | None) -> Any:
        if activation is None:
            return output
        return getattr(nn.functional, activation)(output, inplace=True)

    class Block(nn.Module):
        """Convolution, norm, residual and ReLU."""

        def __init__(self, conv: Any, norm: Any, activation: str | None) -> None:
            super().__init__()
            self.conv, self.norm, self.activation = conv, norm, activation

        def forward(self, input: Any, residual: Any = None) -> Any:
            output = self.norm(self.conv(input))
            if residual is not None:
                output = output + residual
            return activated(output, self.activation)

    class Pyramid(nn.Module):
        def __init__(self, branches: list[Any], combine: str, activation: str | None) -> None:
            super().__init__()
            self.branches, self.combine = nn.ModuleList(branches), combine
            self.activation = activation

        def forward(self, input: Any) -> Any:
            outputs = [branch(input) for branch in self.branches]
            total = torch.cat(outputs, 1) if self.combine == "concat" else sum(outputs)
            return activated(total, self.activation)

    def interpolate(
        input: Any, size: Any = None, align_corners: bool = False, scale: Any = None
    ) -> Any:
        """``fastseg.ops.bilinear_upsample`` by torch."""
        return nn.functional.interpolate(input, size, scale, "bilinear", align_corners)

    def replaced(module: Any) -> Any:
        if isinstance(module, blocks.DilatedConv2d):
            return Block(conv_of(module), nn.Identity(), module.activation)
        if isinstance(module, blocks.ConvNormReLU):
            return Block(conv_of(module.conv), module.norm, module.activation)
        if isinstance(module, blocks.ASPP):
            branches = [replaced(branch) for branch in module.branches]
            return Pyramid(branches, module.combine, module.activation)
        for name, child in module.named_children():
            setattr(module, name, replaced(child))
        module.__class__ = interpolating(type(module), interpolate)
        return module

    return replaced(import_module("copy").deepcopy(model))


def interpolating(kind: Any, interpolate: Any) -> Any:
    """A subclass of a network's or block's class that enlarges with torch; most are left alone."""
    methods = {}
    for base in reversed(kind.__mro__):
        for name, method in vars(base).items():
            if isinstance(method, FunctionType) and "bilinear_upsample" in method.__code__.co_names:
                scope = {**method.__globals__, "bilinear_upsample": interpolate}
                del scope["__name__"]  # torch.compile looks names up in the module of this name
                methods[name] = FunctionType(
                    method.__code__,
                    scope,
                    name,
                    method.__defaults__,
                    method.__closure__,
                )
            else:
                methods.pop(name, None)
    return type(kind.__name__, (kind,), methods) if methods else kind
