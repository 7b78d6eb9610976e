"""A system: a network by name, with what it follows, takes and loads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from fastseg.models.input_convention import InputConvention
from fastseg.models.network import Network
from fastseg.models.with_crf import CRFRNN
from fastseg.nn.checked import Integer

Model = Network | CRFRNN


@dataclass(frozen=True)
class System:
    """A row of the table of systems."""

    name: str
    make: Callable[..., Model]
    """Called with the number of classes and the options."""
    paper: str
    figure: str
    """What of the paper, or of a published implementation, it follows."""
    output_stride: int
    """Of :meth:`scores` in evaluation mode."""
    options: Mapping[str, Any] = field(default_factory=dict)
    input_convention: InputConvention | None = None
    """None for that of the class."""
    checkpoints: tuple[str, ...] = ()
    """Formats that load into it, see :func:`fastseg.load_weights`."""
    num_classes: int = 21
    """Unless another number is asked for."""

    def build(self, num_classes: int | None = None, **options: Any) -> Model:
        """The network with random weights, see :func:`build`."""
        count = self.num_classes if num_classes is None else num_classes
        count = Integer()("build: num_classes", count)
        try:
            model = self.make(count, **{**self.options, **options})
        except TypeError as error:
            if "unexpected keyword" not in str(error):
                raise
            raise TypeError(
                f"build: options of {self.name} must be arguments of "
                f"{getattr(self.make, '__name__', self.name)}, got {', '.join(sorted(options))}"
            ) from None
        if self.input_convention is not None:
            model.input_convention = self.input_convention
        fixed = {name: self.options[name] for name in ("backbone", "depth") if name in self.options}
        if all(options.get(name, value) == value for name, value in fixed.items()):
            model.system = self.name
        return model

    @property
    def parameters(self) -> int:
        """Number of parameters with the default number of classes."""
        return self._facts[0]

    @property
    def convention(self) -> InputConvention:
        """That of a model which is built."""
        return self._facts[1]

    @cached_property
    def _facts(self) -> tuple[int, InputConvention]:
        """Number of parameters and convention of a model without values."""
        with torch.device("meta"):
            model = self.build()
        return sum(parameter.numel() for parameter in model.parameters()), model.input_convention
