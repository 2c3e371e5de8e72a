#!/usr/bin/env python3
"""The PyTorch peer of Deep-CT-Net: same network, same work, for side-by-side timing and parity.

    python torch_reference.py train  --batch 16 --size 256 [--dtype bf16] [--compile] [--steps 20]
    python torch_reference.py infer  --batch 16 --size 256 [--dtype bf16] [--compile]
    python torch_reference.py parity --out peer.npz     # seeded weights, input, features and logits

Needs only torch and numpy. Prints one JSON line. On a GPU it uses channels_last, TF32 matmuls and
cudnn.benchmark; on a CPU channels_last. The network: DenseNet-121 (padding 3/1, final BN + ReLU),
the one-channel feature pyramid attention (7/5/3, stride 2, half-pixel bilinear), BN, flatten, one
logit.
"""

import argparse
import json
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class DenseLayer(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 128, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(128), nn.Conv2d(128, 32, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(F.relu(self.norm2(y)))], 1)


class DenseNet121(nn.Module):
    def __init__(self):
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

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm0(self.conv0(x))), 3, 2, 1)
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i < 3:
                x = self.transitions[i](x)
        return F.relu(self.norm5(x))


class ConvBNReLU(nn.Sequential):
    def __init__(self, cin, cout, k, stride=1):
        super().__init__(nn.Conv2d(cin, cout, k, stride, k // 2), nn.BatchNorm2d(cout), nn.ReLU())


class FPA(nn.Module):
    def __init__(self, c):
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

    def forward(self, x):
        def up(t, like):
            return F.interpolate(t, like.shape[-2:], mode="bilinear", align_corners=False)

        d1 = self.down1(x)
        d2 = self.down2(d1)
        d3 = self.down3(d2)
        l2, l1 = self.lat2(d2), self.lat1(d1)
        att = up(l1 + up(l2 + up(self.lat3(d3), l2), l1), x)
        return att * self.mid(x) + self.gap(x.mean((2, 3), keepdim=True))


class DeepCTNet(nn.Module):
    def __init__(self, size=256):
        super().__init__()
        self.backbone, self.attention, self.norm = DenseNet121(), FPA(1024), nn.BatchNorm2d(1024)
        self.head = nn.Linear(1024 * (size // 32) ** 2, 1)

    def forward(self, x):
        return self.head(self.norm(self.attention(self.backbone(x))).permute(0, 2, 3, 1).flatten(1))


def seeded(net, seed=0):
    """Weights that any framework can rebuild: one numpy stream per entry of the state dict."""
    out = {}
    for i, (name, value) in enumerate(net.state_dict().items()):
        rng = np.random.default_rng([seed, i])
        if name.endswith("num_batches_tracked"):
            continue
        shape = tuple(value.shape)
        if value.ndim >= 2:
            a = rng.normal(size=shape) * np.sqrt(2.0 / np.prod(shape[1:]))
        elif name.endswith("running_var"):
            a = rng.uniform(0.5, 1.5, shape)
        elif name.endswith("weight"):
            a = rng.uniform(0.8, 1.2, shape)
        else:
            a = rng.normal(size=shape) * 0.05
        out[name] = a.astype(np.float32)
    net.load_state_dict({k: torch.from_numpy(v) for k, v in out.items()}, strict=False)
    return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("mode", choices=("train", "infer", "parity"))
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--compile_mode", default=None)
    p.add_argument("--steps", type=int, default=0)
    p.add_argument("--out", default="peer.npz")
    a = p.parse_args()
    gpu = torch.cuda.is_available()
    dev = "cuda" if gpu else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    net = DeepCTNet(a.size)
    if a.mode == "parity":
        weights = seeded(net)
        x = np.random.default_rng(7).normal(size=(2, 3, a.size, a.size)).astype(np.float32)
        net.eval()
        with torch.no_grad():
            feats = net.backbone(torch.from_numpy(x))
            att = net.attention(feats)
            logits = net(torch.from_numpy(x))
        np.savez_compressed(
            a.out,
            x=x,
            features=feats.numpy(),
            attention=att.numpy(),
            logits=logits.numpy(),
            **{"w/" + k: v for k, v in weights.items()},
        )
        print(
            json.dumps(
                {
                    "mode": "parity",
                    "params": sum(q.numel() for q in net.parameters()),
                    "logits": logits.flatten().tolist(),
                }
            )
        )
        return
    net = net.to(dev, memory_format=torch.channels_last)
    x = torch.randn(a.batch, 3, a.size, a.size, device=dev).contiguous(
        memory_format=torch.channels_last
    )
    y = torch.rand(a.batch, 1, device=dev).round()
    steps = a.steps or (30 if gpu else 4)
    amp = torch.autocast(dev, dtype=torch.bfloat16, enabled=a.dtype == "bf16")
    opt = torch.optim.Adam(net.parameters(), 1e-5, fused=gpu)
    run = torch.compile(net, mode=a.compile_mode) if a.compile else net

    def train_step():
        opt.zero_grad(set_to_none=True)
        with amp:
            out = run(x)
        loss = F.binary_cross_entropy_with_logits(out.float(), y)
        loss.backward()
        opt.step()
        return loss

    def infer_step():
        with torch.inference_mode(), amp:
            return run(x)

    net.train(a.mode == "train")
    step = train_step if a.mode == "train" else infer_step
    t0 = time.perf_counter()
    for _ in range(2 if not gpu else 8):
        step()
    if gpu:
        torch.cuda.synchronize()
    warm = time.perf_counter() - t0
    times = []
    for _ in range(steps):
        t0 = time.perf_counter()
        step()
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - t0)
    t = float(np.median(times))
    print(
        json.dumps(
            {
                "framework": "torch " + torch.__version__,
                "device": torch.cuda.get_device_name() if gpu else "cpu",
                "mode": a.mode,
                "batch": a.batch,
                "size": a.size,
                "dtype": a.dtype,
                "compile": a.compile,
                "images_per_s": round(a.batch / t, 2),
                "s_per_step": round(t, 5),
                "warmup_s": round(warm, 1),
                "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if gpu else None,
            }
        )
    )


if __name__ == "__main__":
    main()
