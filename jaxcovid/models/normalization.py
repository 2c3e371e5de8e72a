"""Batch normalisation whose batch moments can be computed once and shared by several layers.

An `axis_name` is that of the mesh axis over which devices share a batch (see `shard_map`): with it
the moments are those of all devices' rows, at one all-reduce a map forward and one backward;
without it those of the device's own.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class Moments(NamedTuple):
    """Per-channel mean and (biased) variance of a feature map, both float32 [c]."""

    mean: jax.Array
    variance: jax.Array

    def of(self, start: int, stop: int) -> "Moments":
        """Those of some channels."""
        return Moments(self.mean[start:stop], self.variance[start:stop])


def batch_moments(x: jax.Array, axis_name: str | None = None) -> Moments:
    """Moments of `x` [..., c] over all axes but the last, accumulated in float32.

    The variance is that of the deviations: the cheaper E[x^2] - E[x]^2 loses the digits of a
    variance that is small beside the squared mean.
    """
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes, keepdims=True)
    return share_moments(Moments(mean.reshape(-1), jnp.square(x - mean).mean(axes)), axis_name)


def pool_moments(parts: Moments) -> Moments:
    """Moments [c] of a map from those of parts of equal size, [parts, c]."""
    mean = parts.mean.mean(0)
    return Moments(mean, parts.variance.mean(0) + jnp.square(parts.mean - mean[None]).mean(0))


def _devices(axis_name: str | None) -> int:
    """Devices that share a batch."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def share_moments(moments: Moments, axis_name: str | None) -> Moments:
    """Moments of all devices' rows from those of each device's: one all-reduce."""
    if _devices(axis_name) == 1:
        return moments
    own = jnp.stack([moments.mean, jnp.square(moments.mean), moments.variance])
    mean, square, variance = jax.lax.pmean(own, axis_name)
    return Moments(mean, variance + jnp.maximum(square - jnp.square(mean), 0))


def join_moments(*parts: Moments) -> Moments:
    """Moments of a channel-wise concatenation from the moments of its parts."""
    return Moments(*(jnp.concatenate(field) for field in zip(*parts, strict=True)))


def pixel_count(x: jax.Array, axis_name: str | None) -> int:
    """Pixels of a map like `x` [b, h, w, c] on every device, added up."""
    return _devices(axis_name) * math.prod(x.shape[:-1])


def share_gradient(gradient: Moments, axis_name: str | None) -> Moments:
    """Gradient by shared moments from what each device's rows add to it: one all-reduce."""
    if _devices(axis_name) == 1:
        return gradient
    return Moments(*jax.lax.psum(jnp.stack(gradient), axis_name))


EPSILON = 1e-5  # PyTorch's


class Affine(NamedTuple):
    """A multiplier and a shift for every channel of a map, float32 [c]."""

    multiplier: jax.Array
    shift: jax.Array

    def of(self, x: jax.Array) -> jax.Array:
        """`x` [b, h, w, c] times the multiplier plus the shift."""
        return x * self.multiplier.reshape(1, 1, 1, -1) + self.shift.reshape(1, 1, 1, -1)

    def relu(self, x: jax.Array) -> jax.Array:
        """ReLU of that, in the dtype of `x`."""
        return jnp.maximum(self.of(x), 0).astype(x.dtype)

    def gradient(self, g: jax.Array) -> jax.Array:
        """Gradient of a loss by `x` from that by `of(x)`."""
        return g * self.multiplier.reshape(1, 1, 1, -1)


def normalisation(scale: jax.Array, bias: jax.Array, moments: Moments) -> Affine:
    """What normalises a map with these moments, then scales and shifts it by parameters [c]."""
    multiplier = scale * jax.lax.rsqrt(moments.variance + EPSILON)
    return Affine(multiplier, bias - moments.mean * multiplier)


class NormalisedSums(NamedTuple):
    """Sums over pixels, float32 [c], that make the gradients of a map's normalisation.

    Attributes:
      total: of the gradient of the loss by the normalised map.
      deviation: likewise, times the map's deviation from its mean.
    """

    total: jax.Array
    deviation: jax.Array

    @classmethod
    def of(cls, gradient: jax.Array, x: jax.Array, moments: Moments) -> "NormalisedSums":
        """Those of some images of the map `x` [b, h, w, c] with these moments."""
        deviation = gradient * (x - moments.mean.reshape(1, 1, 1, -1))
        return cls(*(v.sum((0, 1, 2), dtype=jnp.float32) for v in (gradient, deviation)))

    def gradients(self, scale: jax.Array, moments: Moments) -> tuple[jax.Array, jax.Array, Moments]:
        """Gradients of the loss by scale, bias and moments, if these are sums [parts, c]."""
        total, deviation = self.total.sum(0), self.deviation.sum(0)
        inverse = jax.lax.rsqrt(moments.variance + EPSILON)
        by_moments = Moments(-scale * inverse * total, -0.5 * scale * inverse**3 * deviation)
        return deviation * inverse, total, by_moments


def moments_gradient(moments: Moments, gradient: Moments, pixels: int) -> Affine:
    """Gradient of a loss by a map through its moments, as a function of the map.

    Args:
      moments: of the map.
      gradient: of the loss by the moments.
      pixels: of the map, on every device.
    """
    slope = (2 / pixels) * gradient.variance
    return Affine(slope, gradient.mean / pixels - slope * moments.mean)


@dataclass(frozen=True)
class Running:
    """The running moments of a batch normalisation, collection `batch_stats`."""

    mean: nn.Variable
    variance: nn.Variable
    initializing: bool  # while the module is, updates are ignored
    momentum: float = 0.9  # share that an update keeps; PyTorch's 0.1

    @property
    def moments(self) -> Moments:
        return Moments(self.mean.value, self.variance.value)

    def update(self, moments: Moments) -> None:
        """Moves them towards the moments of a batch."""
        if self.initializing:
            return
        for running, new in zip((self.mean, self.variance), moments, strict=True):
            running.value = self.momentum * running.value + (1 - self.momentum) * new


class NormWeights(nn.Module):
    """Parameters and running moments of a batch normalisation of `channels`."""

    @nn.compact
    def __call__(self, channels: int) -> "Norm":
        return _declare(self, channels)


class Norm(NamedTuple):
    """What a batch normalisation holds: scale and bias, float32 [c], and its running moments."""

    scale: jax.Array
    bias: jax.Array
    running: Running


def _declare(module: nn.Module, channels: int) -> Norm:
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    scale = module.param("scale", ones, (channels,), jnp.float32)
    bias = module.param("bias", zeros, (channels,), jnp.float32)
    mean = module.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
    variance = module.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
    return Norm(scale, bias, Running(mean, variance, module.is_initializing()))


class BatchNorm(nn.Module):
    """Batch normalisation over the last axis (Ioffe & Szegedy, arXiv:1502.03167).

    Unlike `flax.linen.BatchNorm` it accepts moments that the caller already has. Scale and shift
    are folded into one multiply-add in float32.

    Attributes:
      axis_name: see the module's docstring.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, moments: Moments | None = None) -> jax.Array:
        """Normalises `x` [b, h, w, c].

        Args:
          x: the feature map.
          train: use the batch's moments and update the running ones; else use the running ones.
          moments: the batch moments of `x`, if the caller has them.

        Returns:
          The normalised map, shape and dtype of `x`.
        """
        norm = _declare(self, x.shape[-1])
        if train:
            moments = moments or batch_moments(x, self.axis_name)
            norm.running.update(moments)
        else:
            moments = norm.running.moments
        return normalisation(norm.scale, norm.bias, moments).of(x).astype(x.dtype)
