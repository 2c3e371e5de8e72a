"""The lungs of a phantom patient: tissue, vessels, bronchi, fissures; in Hounsfield units (HU)."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from jaxcovid.data.phantom.body import Body, contour, mediastinum
from jaxcovid.data.phantom.frame import (
    FINE,
    ByteArray,
    FloatArray,
    Frame,
    ellipse,
    smooth_noise,
    smooth_step,
)


def lung_masks(frame: Frame, body: Body, level: float) -> tuple[FloatArray, FloatArray]:
    """Share of air-filled lung, 0..1, and depth below its edge in mm: two float32 [h, w]."""
    mask = np.zeros(frame.shape, np.float32)
    frame.fill(mask, contour(body, level), 1)
    for outline, _ in mediastinum(body, level):
        centre = outline.mean(0)
        reach = np.linalg.norm(outline - centre, axis=1, keepdims=True)
        frame.fill(mask, centre + (outline - centre) * (1 + 2.5 / reach), 0)
    x, y = body.spine_x, 0.5 * body.half_depth
    frame.fill(mask, ellipse(x, y, 21.5, 18), 0)
    frame.fill(mask, ellipse(x, y + 31, 31, 28), 0)
    blurred = cv2.GaussianBlur(mask, (0, 0), 3.2 * frame.scale)
    lungs = np.clip((blurred - 0.5) * 9 * frame.scale + 0.5, 0, 1)
    depth = cv2.distanceTransform((lungs > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / frame.scale
    return lungs, depth


def parenchyma(rng: np.random.Generator, frame: Frame, body: Body) -> FloatArray:
    """Lung tissue without vessels: float32 [h, w], HU."""
    _, y = frame.grid()
    hu = np.full(frame.shape, body.lung_hu + rng.normal(0, 12), np.float32)
    hu += rng.uniform(10, 70) * y / body.half_depth
    for grain, spread in ((1.6, 12), (4, 10), (22, 16)):
        hu += spread * smooth_noise(rng, frame.shape, grain * frame.scale)
    if body.emphysema:
        holes = smooth_step(smooth_noise(rng, frame.shape, 7 * frame.scale), 1.0, 1.7)
        hu += (-960 - hu) * holes * body.emphysema * 0.8
    return hu


def hypostasis(
    rng: np.random.Generator, frame: Frame, body: Body, lungs: FloatArray, share: float
) -> FloatArray:
    """Lung left dense by a shallow breath: added HU, float32 [h, w].

    It lies towards the back, around the hila or under the pleura, on both sides, has no borders,
    and covers `share` (0..1) of the lungs.
    """
    x, y = frame.grid()
    behind = y / body.half_depth + 0.35 * (np.abs(x) / body.half_width) ** 2
    central = np.hypot(np.abs(x) - 50, y - 8) / 75
    rank = (
        behind * rng.uniform(0.4, 1)
        - rng.uniform(-1.2, 1.2) * central
        + 0.12 * smooth_noise(rng, frame.shape, 50)
    )
    inside = np.sort(rank[::4, ::4][lungs[::4, ::4] > 0.5])
    edge = inside[min(len(inside) - 1, int((1 - share) * len(inside)))]
    soft = rng.uniform(0.2, 0.4)
    tint = 1 + 0.15 * smooth_noise(rng, frame.shape, 12 * frame.scale)
    return rng.uniform(220, 540) * smooth_step(rank, edge - soft, edge + soft) * tint


def branch(
    rng: np.random.Generator, start: npt.NDArray, heading: float, radius: float, smallest: float
) -> list[tuple[float, float, float, float, float]]:
    """A vessel and its twigs as straight pieces: x and y of both ends and radius, mm."""
    stride = 3.5
    pieces, stack = [], [(float(start[0]), float(start[1]), heading, radius)]
    while stack and len(pieces) < 130:
        x, y, heading, radius = stack.pop()
        until_fork = rng.uniform(9, 24)
        while radius > smallest:
            heading += rng.normal(0, 0.11)
            to_x, to_y = x + stride * math.cos(heading), y + stride * math.sin(heading)
            pieces.append((x, y, to_x, to_y, radius))
            x, y, radius, until_fork = to_x, to_y, radius * 0.95, until_fork - stride
            if until_fork < 0:
                turn = math.copysign(rng.uniform(0.35, 0.9), rng.random() - 0.5)
                stack.append((x, y, heading + turn, radius * rng.uniform(0.55, 0.8)))
                heading -= 0.3 * turn
                radius *= 0.92
                until_fork = rng.uniform(8, 20)
    return pieces


def draw_pieces(frame: Frame, image: ByteArray, pieces: npt.NDArray, gray: npt.ArrayLike) -> None:
    """Draws what `branch` gives, float [n, 5], on a fine grid in place, thick pieces last."""
    ends = frame.points(pieces[:, :4].reshape(-1, 2), fine=FINE).reshape(-1, 2, 2)
    widths = np.maximum(1, np.rint(2 * pieces[:, 4] * frame.scale * FINE)).astype(int)
    grays = np.broadcast_to(np.minimum(gray, 255), len(pieces))
    for i in np.argsort(pieces[:, 4], kind="stable"):
        cv2.line(image, ends[i, 0], ends[i, 1], float(grays[i]), int(widths[i]), shift=4)


def vessels_and_bronchi(
    rng: np.random.Generator, frame: Frame, body: Body, level: float, depth: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Coverage 0..1 by vessels and by the lumen of bronchi: two float32 [h, w]."""
    fine_shape = [n * FINE for n in frame.shape]
    vessels, lumens = np.zeros(fine_shape, np.uint8), np.zeros(fine_shape, np.uint8)
    pieces = []
    heart = float(smooth_step(level, 0.3, 0.75)) * body.heart
    for sign in (-1, 1):
        root = np.array([sign * (30 + 12 * heart), 4 + 8 * heart])
        for heading in np.linspace(-1.25, 1.35, 7):
            heading = heading + rng.normal(0, 0.14)
            start = root + rng.normal(0, 5, 2) + [0, 14 * math.sin(heading)]
            angle = heading if sign > 0 else math.pi - heading
            pieces += branch(rng, start, angle, rng.uniform(1.5, 2.9), 0.3)
    out_of_plane = smooth_noise(rng, frame.shape, 11 * frame.scale)
    tree = np.array(pieces)
    columns, rows = (frame.points(tree[:, :2]) // 16).T
    rows, columns = rows.clip(0, frame.shape[0] - 1), columns.clip(0, frame.shape[1] - 1)
    tree = tree[out_of_plane[rows, columns] < 0.25 + 0.5 * tree[:, 4]]
    draw_pieces(frame, vessels, tree, 90 + 120 * tree[:, 4])

    rows, columns = np.nonzero(depth > 4)
    count = round(150 * body.vessel_density)
    chosen = rng.choice(len(rows), count)
    for i, (row, column) in enumerate(zip(rows[chosen], columns[chosen], strict=True)):
        centre = (int(column * FINE * 16), int(row * FINE * 16))
        radius = 0.5 + rng.random() ** 2 * min(depth[row, column], 40) / 40 * 2.0
        pixels = frame.scale * FINE * 16
        cv2.circle(vessels, centre, round(radius * pixels), 235, -1, shift=4)
        if i % 11 == 0:  # a bronchus beside its artery
            beside = (
                centre[0] + round(2.1 * radius * pixels),
                centre[1] + round(0.4 * radius * pixels),
            )
            cv2.circle(vessels, beside, round((radius + 0.7) * pixels), 200, -1, shift=4)
            cv2.circle(lumens, beside, round(radius * pixels), 255, -1, shift=4)
    small = [
        cv2.resize(v, frame.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        for v in (vessels, lumens)
    ]
    return small[0] * smooth_step(depth, 1.5, 9), small[1] * (depth > 3)


def fissure_lines(rng: np.random.Generator, frame: Frame, body: Body, level: float) -> FloatArray:
    """The thin line between the lobes of each lung: coverage 0..1, float32 [h, w]."""
    fine = np.zeros([n * FINE for n in frame.shape], np.uint8)
    for sign in (-1, 1):
        t = np.linspace(0, 1, 24)
        rise = 50 - 85 * level + rng.normal(0, 8)
        x = sign * (25 + (body.half_width - 25) * t)
        y = 12 + rise * t + rng.uniform(-12, 12) * np.sin(np.pi * t)
        frame.stroke(fine, np.stack([x, y], -1), 255, 0.8)
    small = cv2.resize(fine, frame.shape[::-1], interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255
