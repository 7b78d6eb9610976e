"""The same networks with torch's own layers in place of fastseg's, to race against."""

from importlib import import_module
from typing import Any


def plain_torch(model: Any) -> Any:
    """A copy of ``model`` in which ``torch.nn.Conv2d`` and what it is made of do all the work."""
    torch = import_module("torch")
    blocks = import_module("fastseg.nn")
    nn = torch.nn

    def conv_of(layer: Any) -> Any:
        rate, padding, stride, groups = layer.geometry
        top, bottom, left, right = padding
        if top != bottom or left != right:
            raise ValueError(f"torch.nn.Conv2d has no padding per side, got {padding}")
        conv = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride,
            (top, left),
            rate,
            groups,
            bias=layer.bias is not None,
        )
        conv.weight, conv.bias = layer.weight, layer.bias
        return conv

    class Block(nn.Module):
        """Convolution, norm, residual and ReLU."""

        def __init__(self, conv: Any, norm: Any, relu: bool) -> None:
            super().__init__()
            self.conv, self.norm, self.relu = conv, norm, relu

        def forward(self, input: Any, residual: Any = None) -> Any:
            output = self.norm(self.conv(input))
            if residual is not None:
                output = output + residual
            return nn.functional.relu(output, inplace=True) if self.relu else output

    class Pyramid(nn.Module):
        def __init__(self, branches: list[Any], combine: str, relu: bool) -> None:
            super().__init__()
            self.branches, self.combine, self.relu = nn.ModuleList(branches), combine, relu

        def forward(self, input: Any) -> Any:
            outputs = [branch(input) for branch in self.branches]
            total = torch.cat(outputs, 1) if self.combine == "concat" else sum(outputs)
            return nn.functional.relu(total, inplace=True) if self.relu else total

    def replaced(module: Any) -> Any:
        if isinstance(module, blocks.DilatedConv2d):
            return Block(conv_of(module), nn.Identity(), module.activation == "relu")
        if isinstance(module, blocks.ConvNormReLU):
            return Block(conv_of(module.conv), module.norm, module.activation == "relu")
        if isinstance(module, blocks.ASPP):
            branches = [replaced(branch) for branch in module.branches]
            return Pyramid(branches, module.combine, module.activation == "relu")
        for name, child in module.named_children():
            setattr(module, name, replaced(child))
        return module

    return replaced(import_module("copy").deepcopy(model)).eval()
