"""FCN by the names of its release: wkentaro's pytorch-fcn, and sadeepj's CRF-RNN on top of it."""

import torch

from fastseg.checkpoints.plan import (
    Contents,
    Format,
    Plan,
    Request,
    Tensors,
    builder,
    choose_variant,
)
from fastseg.checkpoints.rename import Rule, below, renamed
from fastseg.crf import DenseCRF
from fastseg.models.fcn import FCN8s
from fastseg.models.implementations import FIT_500

ORIGIN = "wkentaro"
TRUNK: tuple[Rule, ...] = ((r"conv(\d)_(\d)\.", r"backbone.conv\1_\2."),)
LAST = {"upscore.weight": "fcn32s", "upscore16.weight": "fcn16s", "upscore8.weight": "fcn8s"}
"""The layer that only one of the networks has."""
MD5 = {
    "de93e540ec79512f8770033849c8ae89": "fcn8s",
    "bfed4437e941fef58932891217fe6464": "fcn8s_at_once",
}
ARCH = {"FCN8s": "fcn8s", "FCN8sAtOnce": "fcn8s_at_once"}
"""What a training checkpoint says."""
VARIANTS = {"fcn8s": ("8s",), "fcn8s_at_once": ("at-once", "8s-at-once")}
CRF_RULES: tuple[Rule, ...] = (
    (r"crfrnn\.spatial_ker_weights$", "crf.kernels.0.weight"),
    (r"crfrnn\.bilateral_ker_weights$", "crf.kernels.1.weight"),
    (r"crfrnn\.compatibility_matrix$", "crf.compatibility"),
)


def matches(contents: Contents) -> bool:
    names = contents.tensors
    return "score_fr.weight" in names and bool(LAST.keys() & names.keys()) and not is_crf(contents)


def plan(contents: Contents, request: Request) -> Plan:
    tensors, dropped = renamed(contents.tensors, TRUNK)
    system = next(system for name, system in LAST.items() if name in tensors)
    if system == "fcn8s":
        system = which_8s(contents, request)
    spellings = (system, *VARIANTS.get(system, ()))
    build = builder(system, len(tensors["score_fr.weight"]))
    return Plan(ORIGIN, build, tensors, dropped=dropped, variants=spellings)


def which_8s(contents: Contents, request: Request) -> str:
    """FCN-8s trained in stages or at once: the file says it only in what stands beside it."""
    known = ARCH.get(str(contents.metadata.get("arch"))) or MD5.get(contents.digest)
    if known is None and isinstance(request.model, FCN8s):
        known = "fcn8s_at_once" if request.model.at_once else "fcn8s"
    return choose_variant(request, VARIANTS, known, "FCN-8s and FCN-8s at once")


def is_crf(contents: Contents) -> bool:
    return "crfrnn.compatibility_matrix" in contents.tensors


def crf(contents: Contents, request: Request) -> Plan:
    rules = (*CRF_RULES, *below("", TRUNK, "network."), (r"(?!crf\.)", "network."))
    tensors, dropped = renamed(contents.tensors, rules)
    # It adds the message that fastseg, as the paper, subtracts.
    tensors["crf.compatibility"] = -tensors["crf.compatibility"]
    classes = len(tensors["network.score_fr.weight"])
    build = builder("crf_rnn_sadeepj", classes)
    return Plan("sadeepj", build, tensors | widths(classes), FIT_500, dropped)


def widths(classes: int) -> Tensors:
    """The Gaussians' widths, which the published CRF-RNNs do not train and so do not store."""
    with torch.device("cpu"):
        state = DenseCRF.crf_rnn(classes).state_dict()
    return {f"crf.{name}": tensor for name, tensor in state.items() if "sigma" in name}


FORMATS = (
    Format("wkentaro's FCN", matches, plan),
    Format("sadeepj's CRF-RNN", is_crf, crf),
)
