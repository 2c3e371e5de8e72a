"""Deep-CT-Net in PyTorch: the same network and the same work, to time against and to compare with.

    python -m jaxcovid.benchmarks.contestants.torch_network train --batch=16

A contestant, see `rounds`, that needs torch alone, and for another backbone than densenet121 the
package that people take it from: torchvision or timm. On a GPU it uses channels_last, TF32 products
and cudnn.benchmark; on a CPU channels_last. The order of the modules is that of the golden weights
of the tests.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

from jaxcovid.benchmarks import rounds

BACKBONES = ("densenet121", "densenet169", "resnet50", "vgg16", "efficientnet_lite0")


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1 to 128, BN, ReLU, 3x3 to 32, concatenated with the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 128, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(128), nn.Conv2d(128, 32, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class DenseNet121(nn.Module):
    """Features [b, 1024, h / 32, w / 32], after the final BN + ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.norm0 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels, self.blocks, self.transitions = 64, nn.ModuleList(), nn.ModuleList()
        for i, depth in enumerate((6, 12, 24, 16)):
            self.blocks.append(
                nn.Sequential(*[DenseLayer(channels + 32 * j) for j in range(depth)])
            )
            channels += 32 * depth
            if i < 3:
                self.transitions.append(
                    nn.Sequential(
                        nn.BatchNorm2d(channels),
                        nn.ReLU(),
                        nn.Conv2d(channels, channels // 2, 1, bias=False),
                        nn.AvgPool2d(2),
                    )
                )
                channels //= 2
        self.norm5 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.norm0(self.conv0(x))), 3, 2, 1)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i < 3:
                x = self.transitions[i](x)
        return F.relu(self.norm5(x))


class ConvBNReLU(nn.Sequential):
    """Convolution with bias, BN, ReLU."""

    def __init__(self, cin: int, cout: int, k: int, stride: int = 1) -> None:
        super().__init__(nn.Conv2d(cin, cout, k, stride, k // 2), nn.BatchNorm2d(cout), nn.ReLU())


class FPA(nn.Module):
    """The one-channel feature pyramid attention."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gap, self.mid = ConvBNReLU(c, c, 1), ConvBNReLU(c, c, 1)
        self.down1, self.down2, self.down3 = (
            ConvBNReLU(c, 1, 7, 2),
            ConvBNReLU(1, 1, 5, 2),
            ConvBNReLU(1, 1, 3, 2),
        )
        self.lat1, self.lat2, self.lat3 = (
            ConvBNReLU(1, 1, 7),
            ConvBNReLU(1, 1, 5),
            ConvBNReLU(1, 1, 3),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def up(t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
            return F.interpolate(t, like.shape[-2:], mode="bilinear", align_corners=False)

        d1 = self.down1(x)
        d2 = self.down2(d1)
        d3 = self.down3(d2)
        l2, l1 = self.lat2(d2), self.lat1(d1)
        att = up(l1 + up(l2 + up(self.lat3(d3), l2), l1), x)
        return att * self.mid(x) + self.gap(x.mean((2, 3), keepdim=True))


class TimmFeatures(nn.Module):
    """The last map of a network of timm."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model(name, num_classes=0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net.forward_features(x)


def make_backbone(name: str) -> tuple[nn.Module, int]:
    """A backbone, from random initialisation, and the channels of its last map, at 1/32."""
    if name == "densenet121":
        return DenseNet121(), 1024
    if name == "efficientnet_lite0":
        return TimmFeatures("efficientnet_lite0"), 1280
    from torchvision import models

    if name == "densenet169":
        return nn.Sequential(models.densenet169().features, nn.ReLU(inplace=True)), 1664
    if name == "resnet50":
        return nn.Sequential(*list(models.resnet50().children())[:-2]), 2048
    return models.vgg16().features, 512


class DeepCTNet(nn.Module):
    """Logits [b, 1] of images [b, 3, size, size]."""

    def __init__(self, size: int = 256, backbone: str = "densenet121") -> None:
        super().__init__()
        self.backbone, channels = make_backbone(backbone)
        self.attention, self.norm = FPA(channels), nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels * (size // 32) ** 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.attention(self.backbone(x))).permute(0, 2, 3, 1).flatten(1))


def _parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("train", "infer"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def make_step(arguments: argparse.Namespace, device: str) -> Callable[[], None]:
    """The train step or the forward pass on random images."""
    net = DeepCTNet(arguments.size, arguments.backbone).to(
        device, memory_format=torch.channels_last
    )
    net.train(arguments.mode == "train")
    x = torch.randn(arguments.batch, 3, arguments.size, arguments.size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.rand(arguments.batch, 1, device=device).round()
    amp = torch.autocast(device, dtype=torch.bfloat16, enabled=arguments.dtype == "bfloat16")
    optimizer = torch.optim.Adam(net.parameters(), 1e-5, fused=device == "cuda")
    network = torch.compile(net) if arguments.compile else net

    def train_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with amp:
            out = network(x)
        F.binary_cross_entropy_with_logits(out.float(), y).backward()
        optimizer.step()

    def infer_step() -> None:
        with torch.inference_mode(), amp:
            network(x)

    return train_step if arguments.mode == "train" else infer_step


def main() -> None:
    """Warms up and serves rounds of the train step or the forward pass."""
    arguments = _parse_flags()
    gpu = torch.cuda.is_available()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    step = make_step(arguments, "cuda" if gpu else "cpu")

    def run(steps: int) -> None:
        for _ in range(steps):
            step()
            if gpu:
                torch.cuda.synchronize()

    start = time.perf_counter()
    run(8 if gpu else 2)
    facts = {
        "framework": "torch " + torch.__version__,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "mode": arguments.mode,
        "batch": arguments.batch,
        "images_per_step": arguments.batch,
        "size": arguments.size,
        "dtype": arguments.dtype,
        "compile": arguments.compile,
        "warmup_s": time.perf_counter() - start,
    }
    rounds.forget_peak_memory()

    def finish() -> dict[str, Any]:
        on_device = torch.cuda.max_memory_allocated() / 2**30 if gpu else None
        return {"peak_gib": on_device or rounds.peak_memory_gib()}

    rounds.serve(facts, run, finish)


if __name__ == "__main__":
    main()
