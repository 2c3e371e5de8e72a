"""The network of jfhealthcare/Chexpert in PyTorch, from its description; the names are its own.

DenseNet, attention of all kinds (only the feature pyramid runs, once more for each head), global
average, batch normalisation and one logit for each head.
"""

import torch
from torch import nn
from torch.nn import functional as F


class ConvNormRelu(nn.Module):
    def __init__(self, inputs, outputs, size, stride=1):
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2)
        self.conv = nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x):
        return self.conv(x)


def enlarge(x, height, width):
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)


class PyramidAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gap_branch = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), ConvNormRelu(channels, channels, 1)
        )
        self.mid_branch = ConvNormRelu(channels, channels, 1)
        for number, (inputs, size) in enumerate([(channels, 7), (1, 5), (1, 3)], start=1):
            self.add_module(f"downsample{number}", ConvNormRelu(inputs, 1, size, stride=2))
            self.add_module(f"scale{number}", ConvNormRelu(1, 1, size))

    def forward(self, x):
        height, width = x.shape[2:]
        down1 = self.downsample1(x)
        down2 = self.downsample2(down1)
        up = enlarge(self.scale3(self.downsample3(down2)), height // 4, width // 4)
        up = enlarge(self.scale2(down2) + up, height // 2, width // 2)
        up = enlarge(self.scale1(down1) + up, height, width)
        return up * self.mid_branch(x) + enlarge(self.gap_branch(x), height, width)


class ChannelAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // 2)
        self.fc2 = nn.Linear(channels // 2, channels)


class SpatialAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 8, 1)
        self.conv2 = nn.Conv2d(channels, channels // 8, 1)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channel_attention = ChannelAttention(channels)
        self.spatial_attention = SpatialAttention(channels)
        self.pyramid_attention = PyramidAttention(channels)


class Classifier(nn.Module):
    def __init__(self, backbone, heads):
        super().__init__()
        self.backbone = backbone
        channels = backbone.classifier.in_features
        self.attention_map = Attention(channels)
        self.heads = heads
        for head in range(heads):
            self.add_module(f"fc_{head}", nn.Conv2d(channels, 1, 1))
            self.add_module(f"bn_{head}", nn.BatchNorm2d(channels))

    def forward(self, x):
        x = self.backbone.features(x).relu()
        logits = []
        for head in range(self.heads):
            x = self.attention_map.pyramid_attention(x)
            pooled = self.get_submodule(f"bn_{head}")(x.mean((2, 3), keepdim=True))
            logits.append(self.get_submodule(f"fc_{head}")(pooled).flatten(1))
        return logits
