"""Building blocks of segmentation networks: modules that keep ordinary parameters."""

from fastseg.nn.aspp import ASPP
from fastseg.nn.conv_norm_relu import ConvNormReLU
from fastseg.nn.dilated_conv import DilatedConv2d
from fastseg.nn.dilated_conv1d import DilatedConv1d
from fastseg.nn.receptive_field import ReceptiveField, receptive_field
from fastseg.nn.separable_conv import SeparableConvNormReLU
from fastseg.nn.spatial_pyramid_pooling import SpatialPyramidPooling
from fastseg.nn.unpooling import MaxUnpool2d, NearestUnpool2d
from fastseg.nn.upsampling import BilinearUpsample, TransposedConv2d, bilinear_kernel

__all__ = [
    "ASPP",
    "BilinearUpsample",
    "ConvNormReLU",
    "DilatedConv1d",
    "DilatedConv2d",
    "MaxUnpool2d",
    "NearestUnpool2d",
    "ReceptiveField",
    "SeparableConvNormReLU",
    "SpatialPyramidPooling",
    "TransposedConv2d",
    "bilinear_kernel",
    "receptive_field",
]
