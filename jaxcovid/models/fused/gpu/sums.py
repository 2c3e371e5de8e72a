"""Kernels for a GPU: what tiles and splits give, joined, with the arithmetic that follows.

XLA takes two or more kernels for each of these.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxcovid.models.fused.execution import TILE_CHANNELS
from jaxcovid.models.fused.gpu.launch import bytes_of, in_tiles, launch, whole
from jaxcovid.models.fused.normalised_product import ProductSums
from jaxcovid.models.fused.normalization import NormSums, moments_backward
from jaxcovid.models.normalization import Affine, Moments

_CHANNELS = 16  # of a program that joins tiles
_TILES = 256  # that it reads at once, at most
_SPLITS = 32  # that `product_gradients` takes at once, at most


@functools.partial(jax.jit, static_argnames=("interpret",))
def join_moments(
    parts: Moments, whole_map: Moments | None = None, start: int = 0, *, interpret: bool = False
) -> Moments:
    """`pool_moments` of equal tiles.

    Args:
      parts: [tiles, c].
      whole_map: moments of a map, [c or more], whose memory the result takes; None for the parts'
        channels alone.
      start: the first channel of the parts in that map.
      interpret: run without a GPU, for tests.
    """
    tiles, c = parts.mean.shape
    channels = c if whole_map is None else whole_map.mean.size
    result = jax.ShapeDtypeStruct((channels,), jnp.float32)
    into = () if whole_map is None else whole_map
    mean, var = launch(
        _join_moments_kernel,
        *(*parts, in_tiles(start), *into),
        grid=(c // _CHANNELS,),
        in_specs=[*[_columns(tiles)] * 2, whole(1), *[whole(channels)] * len(into)],
        out_specs=[whole(channels)] * 2,
        out_shape=[result] * 2,
        input_output_aliases={3: 0, 4: 1} if into else {},
        traffic=(bytes_of(parts), 8 * c),
        interpret=interpret,
        name="join_moments",
    )
    return Moments(mean, var)


def _join_moments_kernel(means: Any, variances: Any, start: Any, *refs: Any) -> None:
    """Some channels of `join_moments`."""
    mean, var = refs[-2:]
    tiles = means.shape[0]
    first = means[0, :]

    def terms(means: jax.Array, variances: jax.Array) -> Sequence[jax.Array]:
        deviation = means - first[None]
        return deviation, variances + jnp.square(deviation)

    own_mean, square = (total / tiles for total in _sum_tiles((means, variances), terms))
    place = pl.ds(start[0] * TILE_CHANNELS + pl.program_id(0) * _CHANNELS, _CHANNELS)
    mean[place] = first + own_mean
    var[place] = jnp.maximum(square - jnp.square(own_mean), 0)


@functools.partial(jax.jit, static_argnames=("pixels", "interpret"))
def join_norm_sums(
    parts: Sequence[jax.Array],
    gamma: jax.Array,
    moments: Moments,
    pixels: int,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, Affine]:
    """The backward pass of a normalisation from sums over tiles, on one device.

    Args:
      parts: fields of `NormSums`, float32 [tiles, c].
      gamma: scale of the normalisation, [c].
      moments: of the map, [c].
      pixels: of the map.
      interpret: run without a GPU, for tests.

    Returns:
      dgamma, dbeta and `moments_backward`.
    """
    tiles, c = parts[0].shape
    vector = pl.BlockSpec((_CHANNELS,), lambda i: (i,))
    results = [jax.ShapeDtypeStruct((c,), jnp.float32)] * 4
    dgamma, dbeta, slope, shift = launch(
        functools.partial(_join_norm_sums_kernel, pixels=pixels),
        *(*parts, gamma, *moments),
        grid=(c // _CHANNELS,),
        in_specs=[*[_columns(tiles)] * 2, *[vector] * 3],
        out_specs=[vector] * 4,
        out_shape=results,
        traffic=(bytes_of(parts, gamma, moments), bytes_of(results)),
        interpret=interpret,
        name="join_norm_sums",
    )
    return dgamma, dbeta, Affine(slope, shift)


def _join_norm_sums_kernel(
    dy: Any, dy_deviation: Any, gamma: Any, mean: Any, var: Any, *results: Any, pixels: int
) -> None:
    """Some channels of `join_norm_sums`."""
    totals = _sum_tiles((dy, dy_deviation), lambda *tiles: tiles)
    moments = Moments(mean[...], var[...])
    sums = NormSums(*(total[None] for total in totals))
    dgamma, dbeta, dmoments = sums.backward(gamma[...], moments)
    values = dgamma, dbeta, *moments_backward(moments, dmoments, pixels)
    for ref, value in zip(results, values, strict=True):
        ref[...] = value


def _columns(tiles: int) -> pl.BlockSpec:
    """Some channels of all tiles."""
    return pl.BlockSpec((tiles, _CHANNELS), lambda i: (0, i))


def _sum_tiles(parts: Sequence[Any], terms: Callable[..., Any]) -> Sequence[jax.Array]:
    """Sums of two terms of two parts [tiles, c] over the tiles, [c] each."""
    tiles = parts[0].shape[0]
    at_once = math.gcd(tiles, _TILES)  # Triton takes powers of two

    def add(step: jax.Array, totals: Any) -> Any:
        more = terms(*(part[pl.ds(step * at_once, at_once), :] for part in parts))
        return tuple(total + term.sum(0) for total, term in zip(totals, more, strict=True))

    zero = jnp.zeros(_CHANNELS, jnp.float32)
    return jax.lax.fori_loop(0, tiles // at_once, add, (zero, zero))


@functools.partial(jax.jit, static_argnames=("interpret",))
def product_gradients(
    sums: jax.Array,
    w: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    moments: Moments,
    *,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, Moments]:
    """`ProductSums.backward` of sums over some rows each.

    Args:
      sums: float32 [splits, 2, c, m], a power of two of splits.
      w: kernel of the product, float32 [c, m].
      gamma: scale of the normalisation before it, [c].
      beta: shift of that, [c].
      moments: of the channels, [c or more].
      interpret: run without a GPU, for tests.
    """
    splits, _, c, m = sums.shape
    at_once = min(splits, _SPLITS)
    number, row = pl.BlockSpec((1,), lambda i: (i,)), pl.BlockSpec((1, m), lambda i: (i, 0))
    vector = jax.ShapeDtypeStruct((c,), jnp.float32)
    results = [jax.ShapeDtypeStruct((c, m), jnp.float32), *[vector] * 4]
    dw, dgamma, dbeta, dmean, dvar = launch(
        functools.partial(_product_gradients_kernel, at_once=at_once),
        *(sums, w, gamma, beta, *moments),
        grid=(c,),
        in_specs=[
            pl.BlockSpec((splits, 2, None, m), lambda i: (0, 0, i, 0)),
            row,
            *[number] * 4,
        ],
        out_specs=[row, *[number] * 4],
        out_shape=results,
        traffic=(bytes_of(sums, w, gamma, beta, gamma, beta), bytes_of(results)),
        interpret=interpret,
        name="product_gradients",
    )
    return dw, dgamma, dbeta, Moments(dmean, dvar)


def _product_gradients_kernel(
    sums: Any, w: Any, gamma: Any, beta: Any, mean: Any, var: Any, *results: Any, at_once: int
) -> None:
    """A channel of `product_gradients`."""

    def add(step: jax.Array, totals: Any) -> Any:
        part = pl.ds(step * at_once, at_once)
        return tuple(total + sums[part, i, :].sum(0) for i, total in enumerate(totals))

    zero = jnp.zeros(w.shape[1], jnp.float32)
    totals = jax.lax.fori_loop(0, sums.shape[0] // at_once, add, (zero, zero))
    joined = ProductSums(*(total[None] for total in totals))
    values = joined.backward(w[...], gamma[...], beta[...], Moments(mean[...], var[...]))
    for ref, value in zip(results, jax.tree.leaves(values), strict=True):
        ref[...] = value
