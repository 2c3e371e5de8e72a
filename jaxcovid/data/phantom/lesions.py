"""The diseases of a phantom patient: ground glass of COVID-19 and the lobar consolidation."""

import math

import cv2
import numpy as np

from jaxcovid.data.phantom.body import Body, contour
from jaxcovid.data.phantom.frame import FINE, FloatArray, Frame, smooth_noise, smooth_step
from jaxcovid.data.phantom.lungs import branch, draw_pieces


def ground_glass(
    rng: np.random.Generator, frame: Frame, body: Body, level: float
) -> tuple[FloatArray, FloatArray]:
    """Patches along the pleura of both lungs: added HU and coverage 0..1, two float32 [h, w]."""
    x, y = frame.grid()
    wall = contour(body, level)
    count = int(rng.integers(5, 9))
    sides = np.array([-1, 1, *rng.choice([-1, 1], count - 2)])
    ragged = 0.2 * smooth_noise(rng, frame.shape, 9 * frame.scale)
    ragged += 0.1 * smooth_noise(rng, frame.shape, 4 * frame.scale)
    haze, cover = np.zeros(frame.shape, np.float32), np.zeros(frame.shape, np.float32)
    for sign in sides:
        at = int(rng.triangular(-48, 32, 74))  # degrees from the side, mostly towards the back
        centre = wall[at] * [sign, 1]
        inwards = -centre / np.linalg.norm(centre)
        centre = centre + inwards * rng.uniform(4, 18)
        along = (wall[at + 4] - wall[at - 4]) * [sign, 1]
        tilt = math.atan2(along[1], along[0])
        c, s = math.cos(tilt), math.sin(tilt)
        u = (c * (x - centre[0]) + s * (y - centre[1])) / rng.uniform(21, 34)
        v = (c * (y - centre[1]) - s * (x - centre[0])) / rng.uniform(13, 20)
        patch = smooth_step(np.sqrt(u * u + v * v) + ragged, 1.08, 0.92)
        cover = np.maximum(cover, patch)
        haze = np.maximum(haze, patch * rng.uniform(180, 300))
    network = np.exp(-((smooth_noise(rng, frame.shape, 6 * frame.scale) / 0.3) ** 2))
    haze *= 1 + 0.12 * smooth_noise(rng, frame.shape, 5 * frame.scale)
    return haze + cover * network * rng.uniform(400, 520), cover


def consolidation(
    rng: np.random.Generator, frame: Frame, body: Body, level: float, depth: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Airless lung behind a fissure, one side: coverage and air in it, 0..1, two float32 [h, w]."""
    x, y = frame.grid()
    sign = rng.choice([-1, 1])
    at = int(rng.triangular(-50, 25, 72))
    wall = contour(body, level)[at] * [sign, 1]
    hilum = np.array([sign * 38.0, 6.0])
    centre = wall + (hilum - wall) * rng.uniform(0.2, 0.5)
    heading = math.atan2(*(wall - hilum)[::-1])
    c, s = math.cos(heading), math.sin(heading)
    u, v = c * (x - centre[0]) + s * (y - centre[1]), c * (y - centre[1]) - s * (x - centre[0])
    ragged = 0.2 * smooth_noise(rng, frame.shape, 9 * frame.scale)
    ragged += 0.1 * smooth_noise(rng, frame.shape, 3 * frame.scale)
    size = rng.uniform(1.1, 1.55)
    blob = np.sqrt((u / (36 * size)) ** 2 + (v / (29 * size)) ** 2) + ragged
    bend = v * rng.choice([-1, 1]) + rng.uniform(-0.004, 0.004) * u * u
    cover = smooth_step(blob, 1.1, 0.85) * smooth_step(bend + rng.uniform(-4, 8), -0.8, 0.8)

    air = np.zeros([n * FINE for n in frame.shape], np.uint8)
    for turn in rng.uniform(-0.55, 0.55, int(rng.integers(0, 3))):
        root = hilum + 0.35 * (centre - hilum) + rng.normal(0, 4, 2)
        tree = branch(rng, root, heading + turn, rng.uniform(1.0, 1.5), 0.65)
        draw_pieces(frame, air, np.array(tree), 255)
    air = cv2.resize(air, frame.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return cover, air * smooth_step(depth, 4, 12)
