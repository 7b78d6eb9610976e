"""The origins of checkpoints, asked one after the other."""

from fastseg.checkpoints import (
    caffe,
    caffe_vgg,
    jfzhang,
    kazuto,
    milesial,
    own,
    refused,
    smp,
    torchvision,
    vainf,
    vgg,
    wkentaro,
)
from fastseg.checkpoints.errors import CheckpointError
from fastseg.checkpoints.plan import Contents, Format, Plan, Request
from fastseg.checkpoints.report import shortened

FORMATS: tuple[Format, ...] = (
    *own.FORMATS,
    *refused.FORMATS,
    *caffe.FORMATS,
    *caffe_vgg.FORMATS,
    *wkentaro.FORMATS,
    *kazuto.FORMATS,
    *milesial.FORMATS,
    *smp.FORMATS,
    *vainf.FORMATS,
    *jfzhang.FORMATS,
    *torchvision.FORMATS,
    *vgg.FORMATS,
)


def plan_of(contents: Contents, request: Request, path: str) -> Plan:
    """What the file of ``contents`` becomes.

    Raises:
        CheckpointError: no format knows the names, or the one that does refuses or lacks some.
    """
    if request.model is not None and own.is_state_of(contents, request.model):
        return own.state_plan(contents, request.model)
    for format in FORMATS:
        if not format.matches(contents):
            continue
        try:
            return format.plan(contents, request)
        except KeyError as error:
            raise CheckpointError(
                f"load_weights: {path} must hold the whole network, as {format.name} files do, "
                f"got one without {error.args[0]}"
            ) from error
    raise CheckpointError(
        f"load_weights: {path} must be of a network that fastseg knows, got "
        f"{len(contents.tensors)} tensors named {shortened(list(contents.tensors))}"
    )
