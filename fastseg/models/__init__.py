"""Systems of the papers: an image in its convention in, logits at the size of the image out."""

from fastseg.models.border_weight_map import border_weight_map
from fastseg.models.deconvnet import DeconvNet, aggregate_proposals
from fastseg.models.deeplab_v1 import DeepLabV1
from fastseg.models.deeplab_v2 import DeepLabV2ResNet, DeepLabV2VGG16
from fastseg.models.deeplab_v3 import DeepLabV3
from fastseg.models.deeplab_v3plus import DeepLabV3Plus
from fastseg.models.fcn import FCN8s, FCN16s, FCN32s
from fastseg.models.fcn_alexnet import FCNAlexNet
from fastseg.models.fcn_resnet import FCNResNet
from fastseg.models.input_convention import InputConvention
from fastseg.models.multi_scale import MultiScale
from fastseg.models.network import Network, TrainingOutput
from fastseg.models.overlap_tile import Tile, overlap_tile, tiles
from fastseg.models.system import System
from fastseg.models.systems import SYSTEMS, build, list_systems
from fastseg.models.unet import UNet
from fastseg.models.with_crf import CRFRNN, WithCRF

__all__ = [
    "CRFRNN",
    "SYSTEMS",
    "DeconvNet",
    "DeepLabV1",
    "DeepLabV2ResNet",
    "DeepLabV2VGG16",
    "DeepLabV3",
    "DeepLabV3Plus",
    "FCN8s",
    "FCN16s",
    "FCN32s",
    "FCNAlexNet",
    "FCNResNet",
    "InputConvention",
    "MultiScale",
    "Network",
    "System",
    "Tile",
    "TrainingOutput",
    "UNet",
    "WithCRF",
    "aggregate_proposals",
    "border_weight_map",
    "build",
    "list_systems",
    "overlap_tile",
    "tiles",
]
