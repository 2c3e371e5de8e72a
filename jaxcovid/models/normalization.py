"""Batch normalisation whose batch moments can be computed once and shared by several layers."""

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


def batch_moments(x: jax.Array) -> Moments:
    """Moments of `x` [..., c] over all axes but the last, accumulated in float32.

    Under `jit` with a batch sharded over devices the mean runs over the global batch, so batch
    normalisation is synchronised; inside `shard_map` it runs over the device's own rows.

    The variance is that of the deviations: the cheaper E[x^2] - E[x]^2 cancels so many digits that
    gradients on one and on eight devices differ by 1e-3 of their norm instead of 3e-6.
    """
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes, keepdims=True)
    return Moments(mean.reshape(-1), jnp.square(x - mean).mean(axes))


def join_moments(*parts: Moments) -> Moments:
    """Moments of a channel-wise concatenation from the moments of its parts."""
    return Moments(*(jnp.concatenate(field) for field in zip(*parts, strict=True)))


def pool_moments(parts: Moments) -> Moments:
    """Moments [c] of a map from those of parts of equal size, [parts, c]."""
    mean = parts.mean.mean(0)
    return Moments(mean, parts.variance.mean(0) + jnp.square(parts.mean - mean[None]).mean(0))


def moments_gradient(
    x: jax.Array, moments: Moments, gradient: Moments, whole: jax.Array
) -> jax.Array:
    """Gradient of a loss by `x` [b, h, w, c] through its moments.

    Args:
      x: some images of the map whose moments these are.
      moments: of the whole map.
      gradient: of the loss by the moments.
      whole: the whole map, or one with as many pixels.
    """
    pixels = math.prod(whole.shape[:-1])
    over_channels = (*(1,) * (x.ndim - 1), -1)
    slope = (2 / pixels) * gradient.variance
    constant = gradient.mean / pixels - slope * moments.mean
    return x * slope.reshape(over_channels) + constant.reshape(over_channels)


EPSILON = 1e-5  # PyTorch's


def affine(scale: jax.Array, bias: jax.Array, moments: Moments) -> tuple[jax.Array, jax.Array]:
    """Multiplier and shift [c] that normalise a map with these moments, then scale and shift it."""
    multiplier = scale * jax.lax.rsqrt(moments.variance + EPSILON)
    return multiplier, bias - moments.mean * multiplier


def normalise_relu(x: jax.Array, normalise: tuple[jax.Array, jax.Array]) -> jax.Array:
    """ReLU of `x` [b, h, w, c] times a multiplier plus a shift, both [c]; the dtype of `x`."""
    multiplier, shift = (v.reshape(1, 1, 1, -1) for v in normalise)
    return jax.nn.relu(x * multiplier + shift).astype(x.dtype)


def pixel_sums(x: jax.Array) -> jax.Array:
    """Sums of `x` [b, h, w, c] per channel, float32 [c]."""
    return x.sum((0, 1, 2), dtype=jnp.float32)


def affine_gradient(
    scale: jax.Array, moments: Moments, total: jax.Array, deviation: jax.Array
) -> tuple[jax.Array, jax.Array, Moments]:
    """Gradients by scale, bias and moments of a normalisation.

    Args:
      scale: [c].
      moments: of the map before.
      total: gradient of the loss by the normalised map, summed over its pixels, [c].
      deviation: likewise, times the map's deviation from its mean.
    """
    inverse = jax.lax.rsqrt(moments.variance + EPSILON)
    by_moments = Moments(-scale * inverse * total, -0.5 * scale * inverse**3 * deviation)
    return deviation * inverse, total, by_moments


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
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, moments: Moments | None = None) -> jax.Array:
        """Normalises `x` [..., c].

        Args:
          x: the feature map.
          train: use the batch's moments and update the running ones; else use the running ones.
          moments: the batch moments of `x`, if the caller has them.

        Returns:
          The normalised map, shape and dtype of `x`.
        """
        norm = _declare(self, x.shape[-1])
        if train:
            moments = moments if moments is not None else batch_moments(x)
            norm.running.update(moments)
        else:
            moments = norm.running.moments
        over_channels = (*(1,) * (x.ndim - 1), -1)
        multiplier, shift = affine(norm.scale, norm.bias, moments)
        y = x * multiplier.reshape(over_channels) + shift.reshape(over_channels)
        return y.astype(x.dtype)
