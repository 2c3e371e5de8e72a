"""Batch normalisation (Ioffe & Szegedy, arXiv:1502.03167) and the moments that it needs.

`axis_name` names the mesh axes over which devices share a batch (see `shard_map`). With it the
moments are those of the rows of all devices, at the cost of one all-reduce a map forward and one
backward; without it those of the device's own rows.
"""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxcovid.models.layers import AxisName, accumulation_dtype

EPSILON = 1e-5  # PyTorch's


class Moments(NamedTuple):
    """Mean and (biased) variance of each channel of a feature map, both float32 [c]."""

    mean: jax.Array
    var: jax.Array

    def channels(self, start: int, stop: int) -> "Moments":
        """The moments of the channels from `start` up to `stop`."""
        return Moments(self.mean[start:stop], self.var[start:stop])


def batch_moments(x: jax.Array, axis_name: AxisName = None) -> Moments:
    """Moments of `x` [..., c] over all axes but the last, accumulated in float32.

    The variance is the mean of the squared deviations: the cheaper E[x^2] - E[x]^2 loses the digits
    of a variance that is small beside the squared mean.
    """
    x = x.astype(accumulation_dtype(x.dtype))
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes, keepdims=True)
    return share_moments(Moments(mean.reshape(-1), jnp.square(x - mean).mean(axes)), axis_name)


def device_count(axis_name: AxisName) -> int:
    """The number of devices that share a batch."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def share_moments(moments: Moments, axis_name: AxisName) -> Moments:
    """Moments of the rows of all devices from those of each device's rows: one all-reduce."""
    if device_count(axis_name) == 1:
        return moments
    own = jnp.stack([moments.mean, jnp.square(moments.mean), moments.var])
    mean, square, var = jax.lax.pmean(own, axis_name)
    return Moments(mean, var + jnp.maximum(square - jnp.square(mean), 0))


class Affine(NamedTuple):
    """A multiplier and a shift for each channel of a map, float32 [c]."""

    multiplier: jax.Array
    shift: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` [b, h, w, c] times the multiplier, plus the shift."""
        return x * self.multiplier.reshape(1, 1, 1, -1) + self.shift.reshape(1, 1, 1, -1)

    def relu(self, x: jax.Array) -> jax.Array:
        """ReLU of the result, in the dtype of `x`."""
        return jnp.maximum(self(x), 0).astype(x.dtype)

    def backward(self, dy: jax.Array) -> jax.Array:
        """The gradient dx [b, h, w, c] from the gradient dy by the result."""
        return dy * self.multiplier.reshape(1, 1, 1, -1)


def fold_norm(
    gamma: jax.Array, beta: jax.Array, moments: Moments, epsilon: float = EPSILON
) -> Affine:
    """Batch normalisation with given moments as one multiply-add.

    gamma (x - mean) / sqrt(var + epsilon) + beta = multiplier x + shift.
    """
    multiplier = gamma * jax.lax.rsqrt(moments.var + epsilon)
    return Affine(multiplier, beta - moments.mean * multiplier)


@dataclass(frozen=True)
class RunningMoments:
    """The running moments of a batch normalisation, in the collection `batch_stats`.

    Attributes:
      mean: variable, float32 [c].
      var: variable, float32 [c]; biased, as the moments of a batch are.
      initializing: the module is being initialised, so updates are ignored.
      momentum: share of the old value that an update keeps; PyTorch writes it as 0.1.
    """

    mean: nn.Variable
    var: nn.Variable
    initializing: bool
    momentum: float = 0.9

    @property
    def moments(self) -> Moments:
        return Moments(self.mean.value, self.var.value)

    def update(self, moments: Moments) -> None:
        """Moves the running moments towards those of a batch."""
        if self.initializing:
            return
        for running, new in zip((self.mean, self.var), moments, strict=True):
            running.value = self.momentum * running.value + (1 - self.momentum) * new


class Norm(NamedTuple):
    """What a batch normalisation keeps: parameters, float32 [c], and its running moments.

    Attributes:
      gamma: the parameter `scale`.
      beta: the parameter `bias`.
      running: the variables `mean` and `var` of `batch_stats`.
    """

    gamma: jax.Array
    beta: jax.Array
    running: RunningMoments


def declare_norm(module: nn.Module, channels: int) -> Norm:
    """Declares in `module` the variables of a batch normalisation, named as Flax names them."""
    ones, zeros = nn.initializers.ones, nn.initializers.zeros
    gamma = module.param("scale", ones, (channels,), jnp.float32)
    beta = module.param("bias", zeros, (channels,), jnp.float32)
    mean = module.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
    var = module.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
    return Norm(gamma, beta, RunningMoments(mean, var, module.is_initializing()))


class BatchNorm(nn.Module):
    """Batch normalisation over the last axis, scale and shift folded into one multiply-add.

    Unlike `flax.linen.BatchNorm` it accepts moments that the caller already has. The variables are
    the same.

    Attributes:
      axis_name: see the docstring of the module.
      epsilon: added to the variance.
    """

    axis_name: AxisName = None
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, moments: Moments | None = None) -> jax.Array:
        """Normalises `x` [b, h, w, c].

        Args:
          x: the feature map.
          train: use the moments of the batch and update the running ones; else use the running
            ones.
          moments: the moments of the batch of `x`, if the caller has them.

        Returns:
          The normalised map, shape and dtype of `x`.
        """
        norm = declare_norm(self, x.shape[-1])
        if train:
            moments = moments or batch_moments(x, self.axis_name)
            norm.running.update(moments)
        else:
            moments = norm.running.moments
        return fold_norm(norm.gamma, norm.beta, moments, self.epsilon)(x).astype(x.dtype)
