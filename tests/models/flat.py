"""The networks once more, flat: layer after layer of torch's own functions on a state_dict.

Written from the papers and the released layer lists, and sharing nothing with fastseg but the
names of the parameters.
"""

import torch
from torch.nn import functional as F

VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def conv(state, name, x, **geometry):
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), **geometry)


def norm(state, name, x):
    statistics = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, *statistics, state[f"{name}.weight"], state[f"{name}.bias"])


def conv_norm(state, name, x, **geometry):
    return norm(state, f"{name}.norm", conv(state, f"{name}.conv", x, **geometry))


def vgg16(state, x, pools, rates=(1, 1, 1, 1, 1), first_padding=1):
    features = []
    for stage, ((_, layers), pool, rate) in enumerate(zip(VGG, pools, rates, strict=True), 1):
        for layer in range(1, layers + 1):
            padding = first_padding if stage == layer == 1 else rate
            name = f"backbone.conv{stage}_{layer}"
            x = conv(state, name, x, padding=padding, dilation=rate).relu()
        x = pool(x)
        features.append(x)
    return features


def caffe_pool(kernel, stride, padding=0):
    return lambda x: F.max_pool2d(x, kernel, stride, padding, ceil_mode=True)


def fcn8s(state, image, at_once):
    pool3, pool4, pool5 = vgg16(state, image, [caffe_pool(2, 2)] * 5, first_padding=100)[2:]
    x = conv(state, "fc6", pool5).relu()
    x = conv(state, "fc7", x).relu()
    x = conv(state, "score_fr", x)
    upscore2 = F.conv_transpose2d(x, state["upscore2.weight"], stride=2)
    if at_once:
        pool4, pool3 = pool4 * 0.01, pool3 * 0.0001
    score_pool4 = conv(state, "score_pool4", pool4)
    height, width = upscore2.shape[2:]
    fused = upscore2 + score_pool4[:, :, 5 : 5 + height, 5 : 5 + width]
    upscore_pool4 = F.conv_transpose2d(fused, state["upscore_pool4.weight"], stride=2)
    score_pool3 = conv(state, "score_pool3", pool3)
    height, width = upscore_pool4.shape[2:]
    fused = upscore_pool4 + score_pool3[:, :, 9 : 9 + height, 9 : 9 + width]
    upscore8 = F.conv_transpose2d(fused, state["upscore8.weight"], stride=8)
    height, width = image.shape[2:]
    return upscore8[:, :, 31 : 31 + height, 31 : 31 + width]


def deeplab_trunk(state, image):
    pools = [caffe_pool(3, 2, 1)] * 3 + [caffe_pool(3, 1, 1)] * 2
    return vgg16(state, image, pools, rates=(1, 1, 1, 1, 2))


def deeplab_largefov(state, image):
    x = F.avg_pool2d(deeplab_trunk(state, image)[-1], 3, 1, 1)
    x = conv(state, "fc6", x, padding=12, dilation=12).relu()
    return conv(state, "fc8", conv(state, "fc7", x).relu())


def deeplab_vgg128_noup(state, image):
    """The released network: pools of 2x2 padded by one, fc6 of 4x4 with holes of 4 and pad 6."""
    pools = [caffe_pool(2, 2, 1)] * 3 + [caffe_pool(2, 1), caffe_pool(3, 1, 1)]
    x = vgg16(state, image, pools, rates=(1, 1, 1, 1, 2))[-1]
    x = conv(state, "fc6", x, padding=6, dilation=4).relu()
    return conv(state, "fc8", conv(state, "fc7", x).relu())


def deeplab_aspp(state, image, rates):
    pool5, total = deeplab_trunk(state, image)[-1], 0
    for i, rate in enumerate(rates):
        x = conv(state, f"branches.{i}.fc6", pool5, padding=rate, dilation=rate).relu()
        x = conv(state, f"branches.{i}.fc7", x).relu()
        total = total + conv(state, f"branches.{i}.fc8", x)
    return total


def torchvision_resnet(state, x, depth, output_stride=32, prefix=""):
    """Stride on the 3x3, floor pooling, and a dilated layer whose first block is one behind."""
    x = F.max_pool2d(conv_norm(state, f"{prefix}stem", x, stride=2, padding=3).relu(), 3, 2, 1)
    features, stride_so_far, rate = [], 4, 1
    for layer, blocks in enumerate(BLOCKS[depth], 1):
        stride, first_rate = (1 if layer == 1 else 2), rate
        if stride == 2 and stride_so_far == output_stride:
            stride, rate = 1, rate * 2
        stride_so_far *= stride
        for block in range(blocks):
            name = f"{prefix}layer{layer}.{block}"
            s, r = (stride, first_rate) if block == 0 else (1, rate)
            if depth < 50:
                y = conv_norm(state, f"{name}.conv1", x, stride=s, padding=r, dilation=r).relu()
                y = conv_norm(state, f"{name}.conv2", y, padding=rate, dilation=rate)
            else:
                y = conv_norm(state, f"{name}.conv1", x).relu()
                y = conv_norm(state, f"{name}.conv2", y, stride=s, padding=r, dilation=r).relu()
                y = conv_norm(state, f"{name}.conv3", y)
            if f"{name}.shortcut.conv.weight" in state:
                x = conv_norm(state, f"{name}.shortcut", x, stride=s)
            x = (x + y).relu()
        features.append(x)
    return features


def caffe_resnet(state, x, depth, rates, strides=(1, 2, 1, 1), grid=(1, 1, 1), prefix="backbone."):
    """res2 to res5 as DeepLab released them: stride on the 1x1, one rate a layer, ceil pooling."""
    x = conv_norm(state, f"{prefix}stem", x, stride=2, padding=3).relu()
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    features = []
    for layer, (blocks, rate, stride) in enumerate(
        zip(BLOCKS[depth], rates, strides, strict=True), 1
    ):
        for block in range(blocks):
            name = f"{prefix}layer{layer}.{block}"
            s = stride if block == 0 else 1
            r = rate * (grid[block] if layer == 4 else 1)
            y = conv_norm(state, f"{name}.conv1", x, stride=s).relu()
            y = conv_norm(state, f"{name}.conv2", y, padding=r, dilation=r).relu()
            y = conv_norm(state, f"{name}.conv3", y)
            if block == 0:
                x = conv_norm(state, f"{name}.shortcut", x, stride=s)
            x = (x + y).relu()
        features.append(x)
    return features


def deeplab_v2_resnet(state, image, depth):
    x, total = caffe_resnet(state, image, depth, rates=(1, 1, 2, 4))[-1], 0
    for i, rate in enumerate((6, 12, 18, 24)):
        total = total + conv(state, f"aspp.branches.{i}", x, padding=rate, dilation=rate)
    return total


def v3_aspp(state, x, rates):
    outputs = [conv_norm(state, "aspp.branches.branches.0", x).relu()]
    for i, rate in enumerate(rates, 1):
        name = f"aspp.branches.branches.{i}"
        outputs.append(conv_norm(state, name, x, padding=rate, dilation=rate).relu())
    pooled = conv_norm(state, "aspp.image_pooling.conv", F.adaptive_avg_pool2d(x, 1)).relu()
    outputs.append(F.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=False))
    return conv_norm(state, "aspp.project", torch.cat(outputs, 1)).relu()


def deeplab_v3(state, image, depth, output_stride):
    if output_stride == 8:
        features = caffe_resnet(state, image, depth, (1, 1, 2, 4), grid=(1, 2, 4))
        x = v3_aspp(state, features[-1], (12, 24, 36))
    else:
        features = caffe_resnet(state, image, depth, (1, 1, 1, 2), (1, 2, 2, 1), grid=(1, 2, 4))
        x = v3_aspp(state, features[-1], (6, 12, 18))
    return conv(state, "score", x)


def torchvision_deeplab_v3(state, image, depth):
    """Logits of both heads: rates (12, 24, 36) at output stride 8, and one more 3x3."""
    features = torchvision_resnet(state, image, depth, output_stride=8, prefix="backbone.")
    x = v3_aspp(state, features[-1], (12, 24, 36))
    x = conv(state, "score", conv_norm(state, "head", x, padding=1).relu())
    aux = conv_norm(state, "aux_head.reduce", features[2], padding=1).relu()
    aux = conv(state, "aux_head.score", aux)
    return [
        F.interpolate(y, image.shape[2:], mode="bilinear", align_corners=False) for y in (x, aux)
    ]


def deeplab_v3plus(state, image, depth, align_corners):
    features = caffe_resnet(state, image, depth, (1, 1, 1, 2), (1, 2, 2, 1), grid=(1, 2, 4))
    x = v3_aspp(state, features[-1], (6, 12, 18))
    low = conv_norm(state, "reduce", features[0]).relu()
    x = F.interpolate(x, low.shape[2:], mode="bilinear", align_corners=align_corners)
    x = torch.cat([x, low], 1)
    for i in (0, 1):
        x = conv_norm(state, f"decoder.{i}", x, padding=1).relu()
    x = conv(state, "score", x)
    return F.interpolate(x, image.shape[2:], mode="bilinear", align_corners=align_corners)


def unet(state, x, caffe=False):
    """Valid convolutions, cropped skips first in the concatenation."""
    skips = []
    for level in range(5):
        x = F.max_pool2d(x, 2) if level else x
        for i in (1, 2):
            x = conv(state, f"encoder.{level}.conv{i}", x).relu()
        skips.append(x)
    for level in range(4):
        up = f"decoder.{level}.up"
        x = F.conv_transpose2d(x, state[f"{up}.weight"], state[f"{up}.bias"], stride=2)
        x = x.relu() if caffe else x
        skip = skips[3 - level]
        cut = (skip.shape[2] - x.shape[2]) // 2
        x = torch.cat([skip[:, :, cut:-cut, cut:-cut], x], 1)
        for i in (1, 2):
            x = conv(state, f"decoder.{level}.conv{i}", x).relu()
    return conv(state, "score", x)


def padded_unet(state, x, bilinear):
    """The form that keeps the size, with batch norm; smaller maps are padded to their skips."""
    skips = []
    for level in range(5):
        x = F.max_pool2d(x, 2) if level else x
        for i in (1, 2):
            x = conv_norm(state, f"encoder.{level}.conv{i}", x, padding=1).relu()
        skips.append(x)
    for level in range(4):
        if bilinear:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        else:
            up = f"decoder.{level}.up"
            x = F.conv_transpose2d(x, state[f"{up}.weight"], state[f"{up}.bias"], stride=2)
        skip = skips[3 - level]
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        x = torch.cat([skip, x], 1)
        for i in (1, 2):
            x = conv_norm(state, f"decoder.{level}.conv{i}", x, padding=1).relu()
    return conv(state, "score", x)


def multi_scale_features(state, image):
    """LargeFOV with two layers of 128 filters on the image and pool1 to pool4, at strides to 8."""
    features = deeplab_trunk(state, image)
    x = F.avg_pool2d(features[-1], 3, 1, 1)
    x = conv(state, "fc6", x, padding=12, dilation=12).relu()
    maps = [conv(state, "fc7", x).relu()]
    inputs = [image, *features[:4]]
    for i, (feature, stride) in enumerate(zip(inputs, (8, 4, 2, 1, 1), strict=True)):
        rows, columns = ((1 - side) % stride for side in feature.shape[2:])
        y = F.pad(feature, (0, columns, 0, rows))
        y = conv(state, f"branches.branches.{i}.0", y, padding=1, stride=stride).relu()
        maps.append(conv(state, f"branches.branches.{i}.1", y).relu())
    return conv(state, "fc8", torch.cat(maps, 1))


def fcn_alexnet(state, image):
    """CaffeNet: pooling, then normalisation; the second, fourth and fifth layer in two groups."""

    def normalised(x):
        return F.local_response_norm(x, 5, alpha=0.0001, beta=0.75, k=1.0)

    x = conv(state, "backbone.conv1", image, stride=4, padding=100).relu()
    x = normalised(caffe_pool(3, 2)(x))
    x = conv(state, "backbone.conv2", x, padding=2, groups=2).relu()
    x = normalised(caffe_pool(3, 2)(x))
    x = conv(state, "backbone.conv3", x, padding=1).relu()
    x = conv(state, "backbone.conv4", x, padding=1, groups=2).relu()
    x = conv(state, "backbone.conv5", x, padding=1, groups=2).relu()
    x = conv(state, "fc6", caffe_pool(3, 2)(x)).relu()
    x = conv(state, "score_fr", conv(state, "fc7", x).relu())
    x = F.conv_transpose2d(x, state["upscore.weight"], stride=32)
    return x[:, :, 18 : 18 + image.shape[2], 18 : 18 + image.shape[3]]


def mobilenet_v2(state, x, output_stride, pad_input):
    border = 0 if pad_input else 1
    x = conv_norm(state, "stem", x, stride=2, padding=border).clamp(0, 6)
    reached, rate, index, features = 2, 1, 0, []
    for _, blocks, stride in (
        (16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1),
    ):  # fmt: skip
        before = rate
        if reached == output_stride:
            rate, stride = rate * stride, 1
        reached *= stride
        for block in range(blocks):
            name, r = f"blocks.{index}", rate if block else before
            y = F.pad(x, (r,) * 4) if pad_input else x
            if f"{name}.expand.conv.weight" in state:
                y = conv_norm(state, f"{name}.expand", y).clamp(0, 6)
            y = conv_norm(
                state,
                f"{name}.depthwise",
                y,
                stride=1 if block else stride,
                padding=0 if pad_input else r,
                dilation=r,
                groups=y.shape[1],
            ).clamp(0, 6)
            y = conv_norm(state, f"{name}.project", y)
            x = x + y if x.shape == y.shape else y
            index += 1
            if index in (3, 6, 13, 17):
                features.append(x)
    return features


def separable(state, name, x, **geometry):
    x = conv(state, f"{name}.depthwise", x, groups=x.shape[1], **geometry)
    return conv_norm(state, f"{name}.pointwise", x)


def xception(state, x, dilated):
    """Chollet's network; blocks ``dilated`` have a rate in place of a stride, and pass it on."""
    x = conv_norm(state, "conv1", x, stride=2).relu()
    x = conv_norm(state, "conv2", x).relu()
    rate, features = 1, []
    for index, layers in enumerate((2, 2, 2, *[3] * 8, 2)):
        stride = 2 if index in (0, 1, 2, 11) else 1
        if index in dilated:
            rate, stride = rate * stride, 1
        y = x
        for layer in range(layers):
            y = y if index == layer == 0 else y.relu()
            y = separable(state, f"blocks.{index}.convs.{layer}", y, padding=rate, dilation=rate)
        if stride == 2:
            y = F.max_pool2d(y, 3, 2, 1)
        if index in (0, 1, 2, 11):
            x = conv_norm(state, f"blocks.{index}.shortcut", x, stride=stride)
        x = x + y
        features.append(x)
    x = separable(state, "conv3", x, padding=1, dilation=rate).relu()
    x = conv(state, "conv4.depthwise", x, padding=1, dilation=rate, groups=x.shape[1])
    return features[0], features[1], features[10], conv(state, "conv4.pointwise", x)


def aligned_xception(state, x):
    """Fig. 4 of DeepLab v3+ at output stride 32: everything a convolution, norm and ReLU inside."""

    def block(name, x, stride):
        y = conv_norm(state, f"{name}.depthwise", x, stride=stride, padding=1, groups=x.shape[1])
        return conv_norm(state, f"{name}.pointwise", y.relu()).relu()

    x = conv_norm(state, "conv1", x, stride=2, padding=1).relu()
    x = conv_norm(state, "conv2", x, padding=1).relu()
    features = []
    for index in range(20):
        stride, y = (2 if index in (0, 1, 2, 19) else 1), x
        for layer in range(3):
            y = block(f"blocks.{index}.convs.{layer}", y, stride if layer == 2 else 1)
        if stride == 2:
            x = conv_norm(state, f"blocks.{index}.shortcut", x, stride=2)
        x = x + y
        features.append(x)
    for name in ("conv3", "conv4", "conv5"):
        x = block(name, x, 1)
    return features[0], features[1], features[18], x
