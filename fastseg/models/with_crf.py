"""Networks that end in a dense CRF: as post-processing, or as layers that are trained (CRF-RNN)."""

from typing import Annotated, Any, TypeAlias

from torch import Tensor

from fastseg._limits import MAX_ITERATIONS
from fastseg.crf.dense_crf import DenseCRF
from fastseg.models.fcn import FCN8s
from fastseg.models.input_convention import InputConvention
from fastseg.models.network import Network, TrainingOutput
from fastseg.nn.checked import Count, Integer, checked
from fastseg.nn.recipe import Recorded

Iterations: TypeAlias = Annotated[int, Integer(0, MAX_ITERATIONS)]


class WithCRF(Recorded):
    """A network, and a dense CRF on its logits at the size of the image.

    The CRF's message is added to the logits in every iteration, and what the last iteration gives
    before its softmax is the result: logits again, to be trained through or to take the argmax of.

    Args:
        network: any :class:`Network` whose logits have the size of the image.
        crf: None for that which its paper published with it, ``network.crf_preset``.

    Raises:
        ValueError: the network's paper has no CRF and none is given, or its logits are smaller
            than the image.
    """

    @checked
    def __init__(self, network: Network, crf: DenseCRF | None = None) -> None:
        super().__init__()
        if getattr(network, "margin", 0):
            raise ValueError(
                "WithCRF: network must give logits of the size of the image, got a "
                f"{type(network).__name__} of valid convolutions; padding='same' does"
            )
        if crf is None:
            if network.crf_preset is None:
                raise ValueError(
                    f"WithCRF: crf must be given for {type(network).__name__}, which was published "
                    "without one, got None"
                )
            crf = DenseCRF.preset(network.crf_preset)
            self.arguments["crf"] = crf  # the network's preset may change
        self.network, self.crf = network, crf
        self.num_classes = network.num_classes

    @property
    def input_convention(self) -> InputConvention:
        """That of the network, see :class:`Network`."""
        return self.network.input_convention

    @input_convention.setter
    def input_convention(self, convention: InputConvention) -> None:
        self.network.input_convention = convention

    def scores(self, input: Tensor) -> Tensor:
        """Those of the network, before upsampling and CRF."""
        return self.network.scores(input)

    def forward(self, input: Tensor, image: Tensor | None = None) -> Any:
        """Refined logits.

        Args:
            input: ``(B, C, H, W)`` in the network's convention.
            image: ``(B, 3, H, W)``, the same pixels in 0-255, any integer or floating dtype; None
                for ``input`` itself in these units, see :meth:`InputConvention.unscaled`: its
                pixels differ by as much.

        Returns:
            ``(B, K, H, W)``, at least float32; :class:`TrainingOutput` with the network's own
            ``aux`` where it returns that.
        """
        output = self.network(input)
        if image is None:
            image = self.input_convention.unscaled(input)
        if isinstance(output, TrainingOutput):
            return TrainingOutput(self.crf.logits(output.logits, image), output.aux)
        return self.crf.logits(output, image)


class CRFRNN(WithCRF):
    """FCN-8s and a CRF whose weights are trained with it (Zheng et al. 2015).

    Five mean-field iterations in training and ten afterwards; see :meth:`DenseCRF.crf_rnn`.

    Args:
        num_classes: K.
        upscore2_bias: see :class:`FCN8s`.
        in_channels: channels of the image.
        iterations, train_iterations: of the CRF.
    """

    @checked
    def __init__(
        self,
        num_classes: Count = 21,
        *,
        upscore2_bias: bool = False,
        in_channels: Count = 3,
        iterations: Iterations = 10,
        train_iterations: Iterations = 5,
    ) -> None:
        super().__init__(
            FCN8s(num_classes, upscore2_bias=upscore2_bias, in_channels=in_channels),
            DenseCRF.crf_rnn(num_classes, iterations=iterations, train_iterations=train_iterations),
        )
