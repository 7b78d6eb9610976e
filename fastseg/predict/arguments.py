"""What a :class:`fastseg.Segmenter` asks of its arguments."""

import math

import torch
from torch import nn

from fastseg._arguments import dtype_name
from fastseg.checkpoints.save import unwrapped
from fastseg.crf.dense_crf import DenseCRF
from fastseg.models.input_convention import InputConvention
from fastseg.models.network import Network, check_backbone
from fastseg.models.with_crf import WithCRF
from fastseg.nn.checked import Integer, Number, OneOf, Several
from fastseg.predict.blocks import STEP
from fastseg.predict.windows import BLENDS

SCALES_RULE = Several(Number("be a positive number up to 16", 2**-16, 16))
OVERLAP = Number("lie in [0, 1)", 0, math.nextafter(1, 0))


def checked_model(model: object) -> nn.Module:
    """The model inside ``DataParallel`` and the like, if it has values."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"Segmenter: model must be a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "Segmenter: model must have values, got one on the meta device; "
            "fastseg.load_weights(None, path) builds a file's own"
        )
    return model


def checked_convention(model: nn.Module, given: InputConvention | None) -> InputConvention:
    convention = getattr(model, "input_convention", None) if given is None else given
    if not isinstance(convention, InputConvention):
        raise TypeError(
            "Segmenter: input_convention must be an InputConvention for a model without one, "
            f"got {type(convention).__name__}"
        )
    if given is None:
        check_backbone("Segmenter", model)
    return convention


def checked_crf(model: nn.Module, crf: object) -> DenseCRF | None:
    if isinstance(crf, str):
        crf = DenseCRF.preset(crf)
    if crf is not None and not isinstance(crf, DenseCRF):
        raise TypeError(
            f"Segmenter: crf must be a DenseCRF, the name of a preset or None, got {crf!r}"
        )
    if crf is not None and isinstance(model, WithCRF):
        raise ValueError(
            f"Segmenter: crf must be None for {type(model).__name__}, which ends in one, got one"
        )
    return crf


def checked_tiles(
    tile: int | None, overlap: float | None, blend: str, margin: int
) -> tuple[int | None, float | None, str, int]:
    tile = tile if tile is None else Integer()("Segmenter: tile", tile)
    overlap = overlap if overlap is None else OVERLAP("Segmenter: overlap", overlap)
    blend = str(OneOf(*BLENDS)("Segmenter: blend", blend))
    if Integer(0)("Segmenter: margin", margin) % STEP:
        raise ValueError(f"Segmenter: margin must be a multiple of {STEP}, got {margin}")
    return tile, overlap, blend, int(margin)


def checked_device(device: torch.device | str | int) -> torch.device:
    try:
        place = torch.device(device)
        if place.type == "meta":
            raise ValueError("it has no memory")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"Segmenter: device must be one that torch has here, got {device!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return place


def check_dtype(model: nn.Module) -> None:
    """A network of fastseg takes no pixels but those of its own dtype; images are float32."""
    for name, tensor in model.named_parameters():
        if isinstance(model, Network | WithCRF) and tensor.dtype != torch.float32:
            raise ValueError(
                f"Segmenter: model must have parameters of float32, got {name} of "
                f"{dtype_name(tensor)}; model.float() makes them, amp computes with fewer bits"
            )


def device_of(model: nn.Module) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def amp_dtype(amp: bool | torch.dtype, device: torch.device) -> torch.dtype | None:
    if isinstance(amp, torch.dtype):
        if amp not in (torch.float16, torch.bfloat16):
            raise ValueError(f"Segmenter: amp must be float16, bfloat16 or a flag, got {amp}")
        return amp
    if isinstance(amp, str):
        raise TypeError(f"Segmenter: amp must be float16, bfloat16 or a flag, got {amp!r}")
    if not amp:
        return None
    return torch.bfloat16 if device.type == "cpu" else torch.float16
