"""Draws the phantom: axial chest CT slices, healthy or diseased, from a seed and nothing else.

A slice is drawn in Hounsfield units (HU) in a patient frame in millimetres (x to the patient's
left, which is the right of the image; y to the back; origin between the lungs), in this order:

  1. `Frame`         pose and crop: patient frame -> work grid, 512 columns
  2. `draw_solids`        skin, fat, muscle, bone, mediastinum, on a grid twice as fine
  3. `lung_masks`         where there is air, and how far each point is from the edge
  4. `parenchyma`    tissue, hypostasis, emphysema + the ground glass of COVID-19, which is *added*
  5. `vessels_and_bronchi`       branching vessels and bronchi, drawn over the ground glass
  6. `consolidation` the lobar pneumonia, which *replaces* all of it but its air bronchograms
  7. `_acquire`       resampling, blur, band-limited noise, window, 8 bits

Body, pose, noise and window come from random streams that do not know the class, so the same
`(patient, index)` drawn with another label is the same slice with another disease. One thing is
made up for: a share of the lungs is hazy in every class, and what is not diseased of it is smooth
hypostasis. Without it the histogram alone would give the classes away.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from jaxcovid.data.phantom.body import AIR, BLOOD, Body, draw_solids, sample_body
from jaxcovid.data.phantom.frame import ByteArray, FloatArray, Frame, smooth_noise
from jaxcovid.data.phantom.lesions import consolidation, ground_glass
from jaxcovid.data.phantom.lungs import (
    fissure_lines,
    hypostasis,
    lung_masks,
    parenchyma,
    vessels_and_bronchi,
)

CLASS_NAMES = ("COVID-19", "other pneumonia", "normal")

_SEED = 20200311
_WORK_WIDTH = 512  # columns of the work grid


def _acquire(
    rng: np.random.Generator, hu: FloatArray, size: tuple[int, int], mask: FloatArray
) -> tuple[ByteArray, ByteArray]:
    """Image and mask as stored: two float32 [h, w], the first in HU -> two uint8 of `size`."""
    hu = cv2.resize(hu, size[::-1], interpolation=cv2.INTER_AREA)
    hu = cv2.GaussianBlur(hu, (0, 0), rng.uniform(0.35, 0.8))
    noise = rng.standard_normal(size, np.float32)
    fine, coarse = rng.uniform(0.55, 0.9), rng.uniform(1.8, 2.6)
    noise = cv2.GaussianBlur(noise, (0, 0), fine) - 0.8 * cv2.GaussianBlur(noise, (0, 0), coarse)
    hu += noise / noise.std() * rng.uniform(6, 24)
    # Air outside the body is black, as in published slices: noise that stays visible there would
    # take most of the gray levels in the histogram equalisation, and leave few to the lungs.
    low, high = rng.uniform(-960, -920), rng.uniform(70, 300)
    gray = np.clip((hu - low) / (high - low), 0, 1) ** rng.uniform(0.8, 1.25)
    mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_AREA)
    return np.rint(gray * 255).astype(np.uint8), np.where(mask > 0.5, 255, 0).astype(np.uint8)


def _pose(rng: np.random.Generator, body: Body) -> tuple[Frame, tuple[int, int]]:
    """Crop and tilt of a slice, and its size in pixels: frame, (rows, columns)."""
    half_width = body.half_width + body.muscle + 12 + body.fat
    front = body.half_depth + 0.7 * body.muscle + 8 + 0.8 * body.fat
    back = body.half_depth + body.muscle + 17 + 0.7 * body.fat
    left, right = half_width * rng.uniform(0.92, 1.27, 2)
    above, below = front * rng.uniform(0.95, 1.4), back * rng.uniform(0.95, 1.45)
    scale = _WORK_WIDTH / (left + right)
    aspect = min(max((above + below) / (left + right), 0.58), 1.25)
    shape = (round(_WORK_WIDTH * aspect), _WORK_WIDTH)
    frame = Frame(scale, (left * scale, above * scale), math.radians(rng.normal(0, 4.5)), shape)
    longest = 420 / max(1, aspect)
    width = rng.uniform(max(220, 220 / aspect), longest)
    return frame, (round(width * aspect), round(width))


def _scene(
    patient: int, index: int
) -> tuple[Body, float, Frame, tuple[int, int], np.random.Generator]:
    """What a slice shows before anything is drawn: body, level, frame, size and random stream."""
    body = sample_body(np.random.default_rng([_SEED, patient]))
    rng = np.random.default_rng([_SEED, patient, index, 0])
    level = min(1.0, body.first_level + index * body.level_step)
    frame, size = _pose(rng, body)
    return body, level, frame, size, rng


def draw_slice(*, patient: int, index: int, label: str) -> tuple[ByteArray, ByteArray]:
    """Draws one slice, the same bytes for the same arguments.

    Args:
      patient: Number of the patient, from 0; decides the body.
      index: Number of the slice of the patient, from 0 (arch of the aorta) downwards.
      label: One of `CLASS_NAMES`.

    Returns:
      The image, uint8 [h, w], in a lung window, and the mask of the disease, uint8 [h, w], 0 or
      255; h and w differ from slice to slice, 220 to 420.

    Raises:
      ValueError: The label is none of `CLASS_NAMES`.
    """
    if label not in CLASS_NAMES:
        raise ValueError(f"label {label!r} is none of {CLASS_NAMES}")
    body, level, frame, size, rng = _scene(patient, index)
    lesion_rng, scan_rng = (
        np.random.default_rng([_SEED, patient, index, stream]) for stream in (1, 2)
    )
    hu = draw_solids(rng, frame, body, level)
    lungs, depth = lung_masks(frame, body, level)
    tissue = parenchyma(rng, frame, body)
    vessels, lumens = vessels_and_bronchi(rng, frame, body, level, depth)
    fissures = fissure_lines(rng, frame, body, level)
    mask = np.zeros(frame.shape, np.float32)
    share = rng.uniform(0.1, 0.5)  # of the lungs that is hazy, by whatever cause
    if label == "COVID-19":
        haze, mask = ground_glass(lesion_rng, frame, body, level)
        tissue += haze
        share -= float(np.average(mask, weights=lungs))
    elif label == "other pneumonia":
        mask, air = consolidation(lesion_rng, frame, body, level, depth)
        dense = lesion_rng.uniform(-90, 30) + 25 * smooth_noise(
            lesion_rng, frame.shape, 5 * frame.scale
        )
        # Less, for it is as bright as the wall of the chest and passes for it in a histogram.
        share -= 0.4 * float(np.average(mask, weights=lungs))
    if share > 0:
        tissue += hypostasis(rng, frame, body, lungs, share)
    tissue += (-350 - tissue) * 0.35 * fissures
    tissue += (BLOOD - tissue) * vessels
    tissue += (AIR + 60 - tissue) * lumens
    if label == "other pneumonia":
        tissue += (dense + (AIR + 120 - dense) * air - tissue) * mask
    hu += (tissue - hu) * lungs
    return _acquire(scan_rng, hu, size, mask * (depth > 0.5))


def slices_of(patient: int) -> Sequence[int]:
    """The slice numbers of a patient: three to five, whatever the class."""
    return range(int(np.random.default_rng([_SEED, patient, 7]).integers(3, 6)))


def draw_lungs(*, patient: int, index: int) -> ByteArray:
    """Draws the mask of the lungs of a slice: uint8 [h, w], 0 or 255, whatever the class."""
    body, level, frame, size, _ = _scene(patient, index)
    lungs, _ = lung_masks(frame, body, level)
    lungs = cv2.resize(lungs, size[::-1], interpolation=cv2.INTER_AREA)
    return np.where(lungs > 0.5, 255, 0).astype(np.uint8)
