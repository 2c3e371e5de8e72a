"""Draws the phantom: axial chest CT slices, healthy or diseased, from a seed and nothing else.

A slice is drawn in Hounsfield units (HU) in a patient frame in millimetres (x to the patient's
left, which is the right of the image; y to the back; origin between the lungs), in this order:

  1. `_Frame`         pose and crop: patient frame -> work grid, 512 columns
  2. `_solids`        skin, fat, muscle, bone, mediastinum, on a grid twice as fine
  3. `_lungs`         where there is air, and how far each point is from the edge
  4. `_parenchyma`    tissue, hypostasis, emphysema + the ground glass of COVID-19, which is *added*
  5. `_vessels`       branching vessels and bronchi, drawn over the ground glass
  6. `_consolidation` the lobar pneumonia, which *replaces* all of it but its air bronchograms
  7. `_acquire`       resampling, blur, band-limited noise, window, 8 bits

Body, pose, noise and window come from random streams that do not know the class, so the same
`(patient, index)` drawn with another label is the same slice with another disease. One thing is
made up for: a share of the lungs is hazy in every class, and what is not diseased of it is smooth
hypostasis. Without it the histogram alone would tell the classes.
"""

import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

CLASS_NAMES = ("COVID-19", "other pneumonia", "normal")

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

_SEED = 20200311
_WORK_WIDTH = 512  # columns of the work grid
_FINE = 2  # solids and vessels are drawn this much finer, which smooths their edges

# Attenuation of tissue, HU.
_AIR, _FAT, _MUSCLE, _BLOOD, _CORTEX, _MARROW, _CARTILAGE = -1000, -100, 50, 45, 650, 200, 110


@dataclasses.dataclass(frozen=True)
class _Body:
    """What all slices of a patient share; lengths in mm."""

    half_width: float  # of the thoracic cavity
    half_depth: float
    squareness: float  # exponent of the superellipse: 2 is an ellipse
    fat: float  # thickness under the skin
    muscle: float  # thickness over the ribs
    heart: float  # relative size
    spine_x: float
    ripple: tuple[float, ...]  # Fourier terms of the contour, relative
    first_level: float  # 0 is the aortic arch, 1 the lower heart
    level_step: float
    lung_hu: float
    vessel_density: float
    emphysema: float  # 0 none .. 1


def _sample_body(rng: np.random.Generator) -> _Body:
    return _Body(
        half_width=rng.normal(131, 8),
        half_depth=rng.normal(86, 6),
        squareness=rng.uniform(2.0, 2.35),
        fat=rng.uniform(5, 24),
        muscle=rng.uniform(13, 20),
        heart=rng.uniform(0.85, 1.15),
        spine_x=rng.normal(0, 2.5),
        ripple=tuple(rng.normal(0, 0.009, 8)),
        first_level=rng.uniform(0.0, 0.35),
        level_step=rng.uniform(0.1, 0.16),
        lung_hu=rng.uniform(-880, -690),
        vessel_density=rng.uniform(0.8, 1.2),
        emphysema=rng.uniform(0.3, 1.0) * (rng.random() < 0.25),
    )


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Patient frame (mm) to work grid (pixels)."""

    scale: float  # pixels per mm
    origin: tuple[float, float]  # column, row of the patient's origin
    angle: float  # radians
    shape: tuple[int, int]  # rows, columns of the work grid

    def points(self, points: npt.ArrayLike, *, fine: int = 1) -> npt.NDArray[np.int32]:
        """Pixels in 1/16, as OpenCV's `shift=4` reads them: float [n, 2] mm -> int32 [n, 2]."""
        x, y = np.asarray(points, np.float64).T
        c, s = math.cos(self.angle), math.sin(self.angle)
        column = (c * x - s * y) * self.scale + self.origin[0]
        row = (s * x + c * y) * self.scale + self.origin[1]
        return np.rint(np.stack([column, row], -1) * fine * 16).astype(np.int32)

    def fill(self, image: npt.NDArray, points: npt.ArrayLike, value: float, fine: int = 1) -> None:
        """Fills a polygon, float [n, 2] mm, in place."""
        cv2.fillPoly(image, [self.points(points, fine=fine)], value, shift=4)

    def stroke(self, image: npt.NDArray, points: npt.ArrayLike, value: float, width: float) -> None:
        """Draws an open line of `width` mm, float [n, 2] mm, on a fine grid in place."""
        pixels = max(1, round(width * self.scale * _FINE))
        cv2.polylines(image, [self.points(points, fine=_FINE)], False, value, pixels, shift=4)

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """The patient's x and y, mm, of each pixel: two float32 [h, w]."""
        u = (np.arange(self.shape[1], dtype=np.float32)[None] - self.origin[0]) / self.scale
        v = (np.arange(self.shape[0], dtype=np.float32)[:, None] - self.origin[1]) / self.scale
        c, s = math.cos(self.angle), math.sin(self.angle)
        return c * u + s * v, c * v - s * u


def _step(x: npt.ArrayLike, low: float, high: float) -> FloatArray:
    """Smooth step: 0 at `low`, 1 at `high` (which may be the smaller one)."""
    t = np.clip((np.asarray(x, np.float32) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _field(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> FloatArray:
    """Smooth noise of mean 0 and standard deviation about 1: float32 [h, w], grain in pixels."""
    size = [max(4, math.ceil(n / grain) + 3) for n in shape]
    coarse = cv2.GaussianBlur(rng.standard_normal(size, np.float32), (3, 3), 0.6)
    full = cv2.resize(
        coarse / coarse.std(), None, fx=grain, fy=grain, interpolation=cv2.INTER_CUBIC
    )
    return full[: shape[0], : shape[1]]


def _ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> npt.NDArray:
    """Outline of an ellipse: float [48, 2] mm, tilt in radians."""
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    u, v = rx * np.cos(t), ry * np.sin(t)
    c, s = math.cos(tilt), math.sin(tilt)
    return np.stack([x + c * u - s * v, y + s * u + c * v], -1)


def _contour(
    body: _Body, level: float, *, side: float = 0, front: float = 0, back: float = 0
) -> npt.NDArray:
    """The thoracic cavity at `level`, grown by mm to its sides, front and back: float [360, 2] mm.

    Point i lies at i degrees from the patient's left, by way of the back.
    """
    t = np.radians(np.arange(360))
    x, y = np.cos(t), np.sin(t)
    x, y = (np.sign(v) * np.abs(v) ** (2 / body.squareness) for v in (x, y))
    ripple = 1 + sum(
        a * np.cos((2 + k // 2) * t + k % 2 * np.pi / 2) for k, a in enumerate(body.ripple)
    )
    half_width = body.half_width * (0.86 + 0.14 * min(1.0, 1.6 * level)) + side
    half_depth = body.half_depth * (0.9 + 0.1 * min(1.0, 1.6 * level))
    depth = np.where(y > 0, half_depth + back, half_depth + front)
    taper = 1 + 0.09 * y  # the chest is wider behind
    points = np.stack([x * half_width * ripple * taper, y * depth * ripple], -1)
    points[:, 1] -= np.sign(y) * (4 + 3 * (y > 0)) * np.exp(-((points[:, 0] / 17) ** 2))
    return points


def _mediastinum(body: _Body, level: float) -> list[tuple[npt.NDArray, float]]:
    """Outlines between the lungs (float [n, 2] mm) and their HU, in drawing order."""
    spine_y, heart = 0.5 * body.half_depth, float(_step(level, 0.3, 0.75)) * body.heart
    top, sx = -body.half_depth, body.spine_x
    front = 9 + 14 * heart  # half width behind the sternum, where the lungs nearly meet
    shapes = [
    (
      np.array(
        [(-front, top), (front, top), (0.8 * front, -58), (26, -38), (26, -8), (20, spine_y),
         (-15, spine_y), (-22, -8), (-27, -38), (-0.8 * front, -58)]
      ),
      _FAT + 15.0,
    )
  ]  # fmt: skip
    shapes.append((_ellipse(sx + 25, spine_y - 10, 12, 12), _BLOOD))  # descending aorta
    if level < 0.22:  # aortic arch, superior vena cava
        shapes.append((_ellipse(13, -8, 13, 34, -0.35), _BLOOD))
        shapes.append((_ellipse(-24, -25, 9, 10), _BLOOD))
    if 0.15 < level < 0.6:  # ascending aorta, pulmonary trunk and arteries
        shapes.append((_ellipse(-9, -32, 16, 16), _BLOOD))
        shapes.append((_ellipse(19, -28, 15, 19, 0.5), _BLOOD))
        shapes.append((_ellipse(-30, -22, 9, 10), _BLOOD))
        spread = 1 - abs(level - 0.38) / 0.25
        shapes.append((_ellipse(0, -8, 30 + 18 * spread, 10, 0.12), _BLOOD - 10))
        shapes.append((_ellipse(40, -5, 12, 13), _BLOOD - 10))
    if heart > 0.05:
        shapes.append(
            (_ellipse(16 + 9 * heart, -22, 30 + 36 * heart, 22 + 25 * heart, -0.5), _BLOOD)
        )
        shapes.append(
            (_ellipse(-17, -20, 24 * (0.5 + heart / 2), 14 + 20 * heart, 0.15), _BLOOD - 8)
        )
        shapes.append((_ellipse(6, 8, 14 + 20 * heart, 20), _BLOOD))
    shapes.append((_ellipse(4, spine_y - 23, 7, 5), 25.0))  # oesophagus
    return shapes


def _airways(body: _Body, level: float) -> list[npt.NDArray]:
    """Trachea or main bronchi, float [n, 2] mm each."""
    if level < 0.28:
        return [_ellipse(-2, 2, 9, 9.5)]
    if level < 0.36:
        return [_ellipse(-1, 3, 16, 8.5)]
    if level < 0.68:
        apart = 15 + 60 * (level - 0.36)
        radius = 7.5 - 9 * (level - 0.36)
        return [_ellipse(-apart - 3, 2, radius * 1.15, radius, 0.3),
            _ellipse(apart + 5, 5, radius * 1.25, radius * 0.9, -0.3)]  # fmt: skip
    return []


def _solids(rng: np.random.Generator, frame: _Frame, body: _Body, level: float) -> FloatArray:
    """Everything but the lungs: float32 [h, w], HU."""
    fine = np.full([n * _FINE for n in frame.shape], _AIR, np.float32)

    def fill(points: npt.ArrayLike, value: float) -> None:
        frame.fill(fine, points, value, _FINE)

    side, front, back = body.muscle + 12, 0.7 * body.muscle + 8, body.muscle + 17
    if rng.random() < 0.5:  # the table
        sag = rng.uniform(10, 45)
        x = np.linspace(-230, 230, 40)
        y = body.half_depth + back + body.fat + rng.uniform(8, 16) - sag * (x / 200) ** 2
        for gap, value in ((0, -350), (rng.uniform(14, 22), -500)):
            frame.stroke(fine, np.stack([x, y + gap], -1), value, 2.5)
    fat = body.fat
    skin = _contour(body, level, side=side + fat, front=front + 0.8 * fat, back=back + 0.7 * fat)
    fill(skin, 15)
    fill(skin * (1 - 2.2 / np.linalg.norm(skin, axis=1, keepdims=True)), _FAT)
    muscle = _contour(body, level, side=side, front=front, back=back)
    fill(muscle, _MUSCLE)
    for _ in range(8):  # fat between muscles, along the wall
        start, length, depth = rng.integers(0, 360), rng.integers(25, 80), rng.uniform(0.45, 0.85)
        arc = np.arange(start, start + length) % 360
        grown = _contour(body, level, side=depth * side, front=depth * front, back=depth * back)
        frame.stroke(fine, grown[arc], _FAT + 10, rng.uniform(1.5, 4.0))
    if level < 0.5:  # shoulder blades
        for sign in (-1, 1):
            grown = _contour(body, level, side=0.75 * side, back=0.75 * back + 2)
            arc = grown[rng.integers(28, 36) : rng.integers(50, 60)] * [sign, 1]
            frame.stroke(fine, arc, _CORTEX, 6)
            frame.stroke(fine, arc, _MARROW, 2.5)

    fill(_contour(body, level, side=3, front=3, back=3), 15)
    rib_line = _contour(body, level, side=6.5, front=6.5, back=6.5)
    for sign in (-1, 1):
        front_rib = rib_line[272:300] * [sign, 1]
        frame.stroke(fine, front_rib, _CARTILAGE, 8)
        at = rng.uniform(-62, -48)
        while at < 62:
            length = rng.uniform(6, 22)
            arc = rib_line[np.arange(round(at), round(at + length)) % 360] * [sign, 1]
            width = rng.uniform(7, 9)
            frame.stroke(fine, arc, _CORTEX, width)
            frame.stroke(fine, arc[1:-1], _MARROW, 0.5 * width)
            at += length + rng.uniform(9, 22)
    top = rib_line[270, 1] + rng.uniform(-1, 1)
    sternum_width = rng.uniform(15, 21)
    fill(_ellipse(0, top, sternum_width, 7), _CORTEX - 150)
    fill(_ellipse(0, top, sternum_width - 2.5, 4.5), _MARROW - 40)

    fill(_contour(body, level), 0)
    for outline, value in _mediastinum(body, level):
        fill(outline, value + rng.uniform(-15, 15))
    for outline in _airways(body, level):
        centre = outline.mean(0)
        fill(centre + (outline - centre) * 1.18, 20)
        fill(outline, _AIR + 20)

    x, y = body.spine_x, 0.5 * body.half_depth
    fill(_ellipse(x, y + 26, 34, 26), _MUSCLE)
    for sign in (-1, 1):
        wing = np.array([(x + sign * 11, y + 17), (x + sign * 24, y + 24), (x + sign * 36, y + 31)])
        frame.stroke(fine, wing, _CORTEX - 100, 8)
        frame.stroke(fine, wing[:2], _MARROW, 3)
        rib_head = np.array(
            [(x + sign * 21, y + 8), (x + sign * 34, y + 16), (x + sign * 48, y + 29)]
        )
        frame.stroke(fine, rib_head, _CORTEX - 100, 7)
        frame.stroke(fine, rib_head, _MARROW, 3)
    frame.stroke(fine, [(x, y + 34), (x + rng.normal(0, 1.5), y + 58)], _CORTEX - 150, 6)
    fill(_ellipse(x, y + 24, 16, 14), _CORTEX)
    fill(_ellipse(x, y, 19, 15.5), _CORTEX - 100)
    fill(_ellipse(x, y, 17, 13.5), _MARROW)
    fill(_ellipse(x, y + 23, 10.5, 9), 25)
    hu = cv2.resize(fine, frame.shape[::-1], interpolation=cv2.INTER_AREA)
    hu += (hu > -150) * 12 * _field(rng, frame.shape, 6)
    return hu


def _lungs(frame: _Frame, body: _Body, level: float) -> tuple[FloatArray, FloatArray]:
    """Share of air-filled lung, 0..1, and depth below its edge in mm: two float32 [h, w]."""
    mask = np.zeros(frame.shape, np.float32)
    frame.fill(mask, _contour(body, level), 1)
    for outline, _ in _mediastinum(body, level):
        centre = outline.mean(0)
        reach = np.linalg.norm(outline - centre, axis=1, keepdims=True)
        frame.fill(mask, centre + (outline - centre) * (1 + 2.5 / reach), 0)
    x, y = body.spine_x, 0.5 * body.half_depth
    frame.fill(mask, _ellipse(x, y, 21.5, 18), 0)
    frame.fill(mask, _ellipse(x, y + 31, 31, 28), 0)
    blurred = cv2.GaussianBlur(mask, (0, 0), 3.2 * frame.scale)
    lungs = np.clip((blurred - 0.5) * 9 * frame.scale + 0.5, 0, 1)
    depth = cv2.distanceTransform((lungs > 0.5).astype(np.uint8), cv2.DIST_L2, 5) / frame.scale
    return lungs, depth


def _ground_glass(
    rng: np.random.Generator, frame: _Frame, body: _Body, level: float
) -> tuple[FloatArray, FloatArray]:
    """Patches along the pleura of both lungs: added HU and coverage 0..1, two float32 [h, w]."""
    x, y = frame.grid()
    wall = _contour(body, level)
    count = int(rng.integers(5, 9))
    sides = np.array([-1, 1, *rng.choice([-1, 1], count - 2)])
    ragged = 0.2 * _field(rng, frame.shape, 9 * frame.scale)
    ragged += 0.1 * _field(rng, frame.shape, 4 * frame.scale)
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
        patch = _step(np.sqrt(u * u + v * v) + ragged, 1.08, 0.92)
        cover = np.maximum(cover, patch)
        haze = np.maximum(haze, patch * rng.uniform(180, 300))
    network = np.exp(-((_field(rng, frame.shape, 6 * frame.scale) / 0.3) ** 2))
    haze *= 1 + 0.12 * _field(rng, frame.shape, 5 * frame.scale)
    return haze + cover * network * rng.uniform(400, 520), cover


def _parenchyma(rng: np.random.Generator, frame: _Frame, body: _Body) -> FloatArray:
    """Lung tissue without vessels: float32 [h, w], HU."""
    _, y = frame.grid()
    hu = np.full(frame.shape, body.lung_hu + rng.normal(0, 12), np.float32)
    hu += rng.uniform(10, 70) * y / body.half_depth
    for grain, spread in ((1.6, 12), (4, 10), (22, 16)):
        hu += spread * _field(rng, frame.shape, grain * frame.scale)
    if body.emphysema:
        holes = _step(_field(rng, frame.shape, 7 * frame.scale), 1.0, 1.7)
        hu += (-960 - hu) * holes * body.emphysema * 0.8
    return hu


def _hypostasis(
    rng: np.random.Generator, frame: _Frame, body: _Body, lungs: FloatArray, share: float
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
        + 0.12 * _field(rng, frame.shape, 50)
    )
    inside = np.sort(rank[::4, ::4][lungs[::4, ::4] > 0.5])
    edge = inside[min(len(inside) - 1, int((1 - share) * len(inside)))]
    soft = rng.uniform(0.2, 0.4)
    tint = 1 + 0.15 * _field(rng, frame.shape, 12 * frame.scale)
    return rng.uniform(220, 540) * _step(rank, edge - soft, edge + soft) * tint


def _branch(
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


def _draw_pieces(frame: _Frame, image: ByteArray, pieces: npt.NDArray, gray: npt.ArrayLike) -> None:
    """Draws what `_branch` gives, float [n, 5], on a fine grid in place, thick pieces last."""
    ends = frame.points(pieces[:, :4].reshape(-1, 2), fine=_FINE).reshape(-1, 2, 2)
    widths = np.maximum(1, np.rint(2 * pieces[:, 4] * frame.scale * _FINE)).astype(int)
    grays = np.broadcast_to(np.minimum(gray, 255), len(pieces))
    for i in np.argsort(pieces[:, 4], kind="stable"):
        cv2.line(image, ends[i, 0], ends[i, 1], float(grays[i]), int(widths[i]), shift=4)


def _vessels(
    rng: np.random.Generator, frame: _Frame, body: _Body, level: float, depth: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Coverage 0..1 by vessels and by the lumen of bronchi: two float32 [h, w]."""
    fine_shape = [n * _FINE for n in frame.shape]
    vessels, lumens = np.zeros(fine_shape, np.uint8), np.zeros(fine_shape, np.uint8)
    pieces = []
    heart = float(_step(level, 0.3, 0.75)) * body.heart
    for sign in (-1, 1):
        root = np.array([sign * (30 + 12 * heart), 4 + 8 * heart])
        for heading in np.linspace(-1.25, 1.35, 7):
            heading = heading + rng.normal(0, 0.14)
            start = root + rng.normal(0, 5, 2) + [0, 14 * math.sin(heading)]
            angle = heading if sign > 0 else math.pi - heading
            pieces += _branch(rng, start, angle, rng.uniform(1.5, 2.9), 0.3)
    out_of_plane = _field(rng, frame.shape, 11 * frame.scale)
    tree = np.array(pieces)
    columns, rows = (frame.points(tree[:, :2]) // 16).T
    rows, columns = rows.clip(0, frame.shape[0] - 1), columns.clip(0, frame.shape[1] - 1)
    tree = tree[out_of_plane[rows, columns] < 0.25 + 0.5 * tree[:, 4]]
    _draw_pieces(frame, vessels, tree, 90 + 120 * tree[:, 4])

    rows, columns = np.nonzero(depth > 4)
    count = round(150 * body.vessel_density)
    chosen = rng.choice(len(rows), count)
    for i, (row, column) in enumerate(zip(rows[chosen], columns[chosen], strict=True)):
        centre = (int(column * _FINE * 16), int(row * _FINE * 16))
        radius = 0.5 + rng.random() ** 2 * min(depth[row, column], 40) / 40 * 2.0
        pixels = frame.scale * _FINE * 16
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
    return small[0] * _step(depth, 1.5, 9), small[1] * (depth > 3)


def _fissures(rng: np.random.Generator, frame: _Frame, body: _Body, level: float) -> FloatArray:
    """The thin line between the lobes of each lung: coverage 0..1, float32 [h, w]."""
    fine = np.zeros([n * _FINE for n in frame.shape], np.uint8)
    for sign in (-1, 1):
        t = np.linspace(0, 1, 24)
        rise = 50 - 85 * level + rng.normal(0, 8)
        x = sign * (25 + (body.half_width - 25) * t)
        y = 12 + rise * t + rng.uniform(-12, 12) * np.sin(np.pi * t)
        frame.stroke(fine, np.stack([x, y], -1), 255, 0.8)
    small = cv2.resize(fine, frame.shape[::-1], interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def _consolidation(
    rng: np.random.Generator, frame: _Frame, body: _Body, level: float, depth: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Airless lung behind a fissure, one side: coverage and air in it, 0..1, two float32 [h, w]."""
    x, y = frame.grid()
    sign = rng.choice([-1, 1])
    at = int(rng.triangular(-50, 25, 72))
    wall = _contour(body, level)[at] * [sign, 1]
    hilum = np.array([sign * 38.0, 6.0])
    centre = wall + (hilum - wall) * rng.uniform(0.2, 0.5)
    heading = math.atan2(*(wall - hilum)[::-1])
    c, s = math.cos(heading), math.sin(heading)
    u, v = c * (x - centre[0]) + s * (y - centre[1]), c * (y - centre[1]) - s * (x - centre[0])
    ragged = 0.2 * _field(rng, frame.shape, 9 * frame.scale)
    ragged += 0.1 * _field(rng, frame.shape, 3 * frame.scale)
    size = rng.uniform(1.1, 1.55)
    blob = np.sqrt((u / (36 * size)) ** 2 + (v / (29 * size)) ** 2) + ragged
    bend = v * rng.choice([-1, 1]) + rng.uniform(-0.004, 0.004) * u * u
    cover = _step(blob, 1.1, 0.85) * _step(bend + rng.uniform(-4, 8), -0.8, 0.8)

    air = np.zeros([n * _FINE for n in frame.shape], np.uint8)
    for turn in rng.uniform(-0.55, 0.55, int(rng.integers(0, 3))):
        root = hilum + 0.35 * (centre - hilum) + rng.normal(0, 4, 2)
        tree = _branch(rng, root, heading + turn, rng.uniform(1.0, 1.5), 0.65)
        _draw_pieces(frame, air, np.array(tree), 255)
    air = cv2.resize(air, frame.shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return cover, air * _step(depth, 4, 12)


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


def _pose(rng: np.random.Generator, body: _Body) -> tuple[_Frame, tuple[int, int]]:
    """Crop and tilt of a slice, and its size in pixels: frame, (rows, columns)."""
    half_width = body.half_width + body.muscle + 12 + body.fat
    front = body.half_depth + 0.7 * body.muscle + 8 + 0.8 * body.fat
    back = body.half_depth + body.muscle + 17 + 0.7 * body.fat
    left, right = half_width * rng.uniform(0.92, 1.27, 2)
    above, below = front * rng.uniform(0.95, 1.4), back * rng.uniform(0.95, 1.45)
    scale = _WORK_WIDTH / (left + right)
    aspect = min(max((above + below) / (left + right), 0.58), 1.25)
    shape = (round(_WORK_WIDTH * aspect), _WORK_WIDTH)
    frame = _Frame(scale, (left * scale, above * scale), math.radians(rng.normal(0, 4.5)), shape)
    longest = 420 / max(1, aspect)
    width = rng.uniform(max(220, 220 / aspect), longest)
    return frame, (round(width * aspect), round(width))


def _scene(
    patient: int, index: int
) -> tuple[_Body, float, _Frame, tuple[int, int], np.random.Generator]:
    """What a slice shows before anything is drawn: body, level, frame, size and random stream."""
    body = _sample_body(np.random.default_rng([_SEED, patient]))
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
    hu = _solids(rng, frame, body, level)
    lungs, depth = _lungs(frame, body, level)
    tissue = _parenchyma(rng, frame, body)
    vessels, lumens = _vessels(rng, frame, body, level, depth)
    fissures = _fissures(rng, frame, body, level)
    mask = np.zeros(frame.shape, np.float32)
    share = rng.uniform(0.1, 0.5)  # of the lungs that is hazy, by whatever cause
    if label == "COVID-19":
        haze, mask = _ground_glass(lesion_rng, frame, body, level)
        tissue += haze
        share -= float(np.average(mask, weights=lungs))
    elif label == "other pneumonia":
        mask, air = _consolidation(lesion_rng, frame, body, level, depth)
        dense = lesion_rng.uniform(-90, 30) + 25 * _field(lesion_rng, frame.shape, 5 * frame.scale)
        # Less, for it is as bright as the wall of the chest and passes for it in a histogram.
        share -= 0.4 * float(np.average(mask, weights=lungs))
    if share > 0:
        tissue += _hypostasis(rng, frame, body, lungs, share)
    tissue += (-350 - tissue) * 0.35 * fissures
    tissue += (_BLOOD - tissue) * vessels
    tissue += (_AIR + 60 - tissue) * lumens
    if label == "other pneumonia":
        tissue += (dense + (_AIR + 120 - dense) * air - tissue) * mask
    hu += (tissue - hu) * lungs
    return _acquire(scan_rng, hu, size, mask * (depth > 0.5))


def slices_of(patient: int) -> Sequence[int]:
    """The slice numbers of a patient: three to five, whatever the class."""
    return range(int(np.random.default_rng([_SEED, patient, 7]).integers(3, 6)))


def draw_lungs(*, patient: int, index: int) -> ByteArray:
    """Draws the mask of the lungs of a slice: uint8 [h, w], 0 or 255, whatever the class."""
    body, level, frame, size, _ = _scene(patient, index)
    lungs, _ = _lungs(frame, body, level)
    lungs = cv2.resize(lungs, size[::-1], interpolation=cv2.INTER_AREA)
    return np.where(lungs > 0.5, 255, 0).astype(np.uint8)
