"""Programs that run without fastseg: torch.export's, and ONNX."""

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional

import fastseg.ops  # noqa: F401  registers the operators that are replaced
from fastseg.data.files import whole_file
from fastseg.models.deconvnet import DeconvNet
from fastseg.models.network import check_backbone
from fastseg.models.unet import UNet
from fastseg.models.with_crf import WithCRF
from fastseg.ops.activation import activate

SMALLEST, LARGEST = 64, 16384  # sides that programs take, in pixels
MOST_IMAGES = 1024  # of a batch
AGREEMENT = 1e-4  # of the largest logit
CONVENTION = "fastseg.input_convention"
"""Under which the pixels that the model takes stand in the file, in JSON."""


def export_program(model: nn.Module, *, num_channels: int | None = None) -> ExportedProgram:
    """A torch.export program of standard operators, for images and batches of any size.

    fastseg's own operators are replaced by what they are equal to up to rounding: convolution,
    bilinear interpolation, scattering. The program is run once at a size it was not made for and
    compared with the model.

    Args:
        model: a network; exported as it is in evaluation mode, and left as it was.
        num_channels: of its images; None for those of ``model.input_convention``.

    Returns:
        A program from images ``(B, C, H, W)`` in the model's convention to its logits; sides of 64
        to 16384 pixels, and at least ``model.min_size``, of DeconvNet 256; of a U-Net of valid
        convolutions those that it takes.

    Raises:
        ValueError: the model ends in a dense CRF, has a backbone for other pixels, or does
            something that no program for all sizes can do; the message says what.
        TypeError: ``model`` is no module.
    """
    check_exportable(model)
    check_backbone("export", model)
    channels = channels_of(model, num_channels)
    shapes = Shapes(model, channels)
    parameter = next(model.parameters())
    with in_evaluation(model), torch.no_grad(), quiet():
        image = torch.rand(shapes.example, device=parameter.device, dtype=parameter.dtype)
        try:
            program: ExportedProgram = torch.export.export(
                model,
                (image,),
                dynamic_shapes=(shapes.dynamic,),
                prefer_deferred_runtime_asserts_over_guards=shapes.stepped,
            ).run_decompositions(standard_operators())
        except Exception as error:  # the tracer may raise anything that a model makes it meet
            text = str(error).strip().splitlines()
            raise ValueError(
                f"export: {type(model).__name__} must be traceable for every size, got "
                f"{type(error).__name__}: {text[0] if text else ''}"
            ) from error
        other = torch.rand(shapes.other, device=parameter.device, dtype=parameter.dtype)
        check_agreement("the program", program.module()(other), model(other))
    return program


def export_onnx(
    model: nn.Module, path: str | os.PathLike[str], *, num_channels: int | None = None
) -> None:
    """Write ``model`` as ONNX: input ``image``, output ``logits``, dynamic batch, height, width.

    What it takes and refuses is that of :func:`export_program`. Where onnxruntime is installed, the
    file is run and compared with the model before it is moved to ``path``. Its metadata hold the
    input convention in JSON, under ``fastseg.input_convention``.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError, TypeError: as :func:`export_program`.
        OSError: the file cannot be written.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'export: ONNX needs onnx and onnxscript: pip install "fastseg-kernels[export]"'
        ) from error
    program = export_program(model, num_channels=num_channels)
    with torch.no_grad(), quiet():
        converted: Any = torch.onnx.export(
            program, (), None, dynamo=True, input_names=["image"], output_names=["logits"]
        )
    converted.model.metadata_props[CONVENTION] = convention_of(model)
    content = converted.model_proto.SerializeToString()
    check_onnx(model, content, num_channels)
    with whole_file(Path(path)) as file:
        file.write(content)


def export_pt2(
    model: nn.Module, path: str | os.PathLike[str], *, num_channels: int | None = None
) -> None:
    """Write :func:`export_program` to a file for ``torch.export.load``, whole or not at all.

    The input convention is an extra file of it, ``fastseg.input_convention``.
    """
    program = export_program(model, num_channels=num_channels)
    with whole_file(Path(path)) as file:
        torch.export.save(program, file, extra_files={CONVENTION: convention_of(model)})


def check_exportable(model: nn.Module) -> None:
    """Raises ValueError or TypeError with the reason if ``model`` cannot be exported."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"export: model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, WithCRF):
        raise ValueError(
            f"export: model must be a network without a dense CRF, got {type(model).__name__}: no "
            "standard operator does mean-field inference on a permutohedral lattice; export "
            "model.network, and run DenseCRF or `fastseg refine` on its results"
        )


class Shapes:
    """Sizes to trace a model with, to compare it at, and what may vary.

    Two images and unequal sides: a size of one, or two equal ones, would be taken for fixed.
    """

    def __init__(self, model: nn.Module, channels: int) -> None:
        self.stepped = isinstance(model, UNet) and model.padding == "valid"
        height: Any
        width: Any
        if isinstance(model, UNet) and model.padding == "valid":
            step, first = 1 << model.depth, model.valid_size(1)
            height, width = (
                step * Dim(name, min=1, max=LARGEST // step) + (first - step)
                for name in ("row_steps", "column_steps")
            )
            self.example = (2, channels, first + step, first + 2 * step)
            self.other = (3, channels, first + 3 * step, first)
            self.dynamic = {0: Dim("batch", min=1, max=MOST_IMAGES), 2: height, 3: width}
            return
        least = max(int(getattr(model, "min_size", 1)), SMALLEST)
        if isinstance(model, DeconvNet):
            least = 256  # below, fc6 gives a single sample, which is traced in its own way
        self.example = (2, channels, 2 * least + 9, 2 * least + 20)
        self.other = (1, channels, least + 6, 2 * least + 1)
        side = Dim.AUTO(min=least, max=LARGEST)
        self.dynamic = {0: Dim.AUTO(min=1, max=MOST_IMAGES), 2: side, 3: side}


def standard_operators() -> dict[Any, Callable[..., Tensor]]:
    """What stands for fastseg's operators, and for torch's unpooling that ONNX lacks."""
    ops = torch.ops.fastseg
    return {
        ops.dilated_conv2d.default: convolution,
        ops.dilated_conv2d_chosen.default: convolution,
        ops.aspp.default: pyramid,
        ops.bilinear_upsample.default: interpolation,
        torch.ops.aten.max_unpool2d.default: unpooling,
    }


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    rate: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
    groups: int,
    activation: str,
    *choices: Any,
) -> Tensor:
    top, bottom, left, right = padding
    sides = [top, left]
    if (top, left) != (bottom, right):
        input, sides = functional.pad(input, (left, right, top, bottom)), [0, 0]
    output = functional.conv2d(input, weight, bias, list(stride), sides, list(rate), groups)
    if residual is not None:
        output = output + residual
    return activate(output, activation)


def pyramid(
    input: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    rates: Sequence[int],
    combine: str,
    activation: str,
    *choices: Any,
) -> Tensor:
    outputs = []
    for index, (weight, rate) in enumerate(zip(weights, rates, strict=True)):
        spacing = max(rate, 1)
        padding = [spacing * (size - 1) // 2 for size in weight.shape[2:]]
        bias = biases[index] if biases else None
        outputs.append(functional.conv2d(input, weight, bias, 1, padding, spacing))
    total = torch.cat(outputs, 1) if combine == "concat" else outputs[0]
    for output in outputs[1:] if combine == "sum" else []:
        total = total + output
    return activate(total, activation)


def interpolation(
    input: Tensor,
    size: Sequence[int],
    align_corners: bool,
    scale_height: float | None,
    scale_width: float | None,
) -> Tensor:
    scales = (None, None) if align_corners else (scale_height, scale_width)
    output: Tensor = torch.ops.aten.upsample_bilinear2d.default(input, size, align_corners, *scales)
    return output


def unpooling(input: Tensor, indices: Tensor, output_size: Sequence[int]) -> Tensor:
    height, width = output_size
    planes = input.new_zeros(input.shape[0], input.shape[1], height * width)
    planes = planes.scatter(2, indices.flatten(2), input.flatten(2))
    return planes.reshape(input.shape[0], input.shape[1], height, width)


def check_agreement(what: str, actual: Tensor, expected: Tensor) -> None:
    """Raises ValueError unless two results are equal up to rounding."""
    if actual.shape != expected.shape:
        raise ValueError(
            f"export: {what} must give what the model gives, got logits of "
            f"{tuple(actual.shape)} for {tuple(expected.shape)}"
        )
    difference = float((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    if not difference <= AGREEMENT:
        raise ValueError(
            f"export: {what} must give what the model gives, got a difference of "
            f"{difference:.1e} of the largest logit"
        )


def check_onnx(model: nn.Module, content: bytes, num_channels: int | None) -> None:
    try:
        import onnxruntime
    except ImportError:
        return
    image = torch.rand(Shapes(model, channels_of(model, num_channels)).other)
    with in_evaluation(model), torch.no_grad():
        expected = model(image)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": image.numpy()})
    check_agreement("the ONNX file", torch.from_numpy(logits), expected)


def channels_of(model: nn.Module, given: int | None) -> int:
    convention: Any = getattr(model, "input_convention", None)
    if given is None and convention is None:
        raise ValueError("export: num_channels must be given for a model without input_convention")
    return int(convention.num_channels if given is None else given)


def convention_of(model: nn.Module) -> str:
    convention: Any = getattr(model, "input_convention", None)
    return json.dumps({} if convention is None else convention.to_dict())


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        if model in training:
            model.train()
        for module in model.modules():
            module.training = module in training


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch tells its developers while it traces."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            with contextlib.redirect_stdout(nowhere):
                yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
