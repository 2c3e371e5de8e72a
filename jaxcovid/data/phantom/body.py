"""The body of a phantom patient: what encloses the lungs, in Hounsfield units (HU)."""

import dataclasses

import cv2
import numpy as np
import numpy.typing as npt

from jaxcovid.data.phantom.frame import FINE, FloatArray, Frame, ellipse, smooth_noise, smooth_step

# Attenuation of tissue, HU.
AIR, FAT, MUSCLE, BLOOD, CORTEX, MARROW, CARTILAGE = -1000, -100, 50, 45, 650, 200, 110


@dataclasses.dataclass(frozen=True)
class Body:
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


def sample_body(rng: np.random.Generator) -> Body:
    """Draws the body of a patient."""
    return Body(
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


def contour(
    body: Body, level: float, *, side: float = 0, front: float = 0, back: float = 0
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


def mediastinum(body: Body, level: float) -> list[tuple[npt.NDArray, float]]:
    """Outlines between the lungs (float [n, 2] mm) and their HU, in drawing order."""
    spine_y, heart = 0.5 * body.half_depth, float(smooth_step(level, 0.3, 0.75)) * body.heart
    top, sx = -body.half_depth, body.spine_x
    front = 9 + 14 * heart  # half width behind the sternum, where the lungs nearly meet
    shapes = [
    (
      np.array(
        [(-front, top), (front, top), (0.8 * front, -58), (26, -38), (26, -8), (20, spine_y),
         (-15, spine_y), (-22, -8), (-27, -38), (-0.8 * front, -58)]
      ),
      FAT + 15.0,
    )
  ]  # fmt: skip
    shapes.append((ellipse(sx + 25, spine_y - 10, 12, 12), BLOOD))  # descending aorta
    if level < 0.22:  # aortic arch, superior vena cava
        shapes.append((ellipse(13, -8, 13, 34, -0.35), BLOOD))
        shapes.append((ellipse(-24, -25, 9, 10), BLOOD))
    if 0.15 < level < 0.6:  # ascending aorta, pulmonary trunk and arteries
        shapes.append((ellipse(-9, -32, 16, 16), BLOOD))
        shapes.append((ellipse(19, -28, 15, 19, 0.5), BLOOD))
        shapes.append((ellipse(-30, -22, 9, 10), BLOOD))
        spread = 1 - abs(level - 0.38) / 0.25
        shapes.append((ellipse(0, -8, 30 + 18 * spread, 10, 0.12), BLOOD - 10))
        shapes.append((ellipse(40, -5, 12, 13), BLOOD - 10))
    if heart > 0.05:
        shapes.append((ellipse(16 + 9 * heart, -22, 30 + 36 * heart, 22 + 25 * heart, -0.5), BLOOD))
        shapes.append((ellipse(-17, -20, 24 * (0.5 + heart / 2), 14 + 20 * heart, 0.15), BLOOD - 8))
        shapes.append((ellipse(6, 8, 14 + 20 * heart, 20), BLOOD))
    shapes.append((ellipse(4, spine_y - 23, 7, 5), 25.0))  # oesophagus
    return shapes


def _airways(level: float) -> list[npt.NDArray]:
    """Trachea or main bronchi, float [n, 2] mm each."""
    if level < 0.28:
        return [ellipse(-2, 2, 9, 9.5)]
    if level < 0.36:
        return [ellipse(-1, 3, 16, 8.5)]
    if level < 0.68:
        apart = 15 + 60 * (level - 0.36)
        radius = 7.5 - 9 * (level - 0.36)
        return [ellipse(-apart - 3, 2, radius * 1.15, radius, 0.3),
            ellipse(apart + 5, 5, radius * 1.25, radius * 0.9, -0.3)]  # fmt: skip
    return []


@dataclasses.dataclass(frozen=True)
class _Canvas:
    """A fine grid of HU that shapes in mm are drawn on, each over those before it."""

    frame: Frame
    hu: FloatArray  # [h * FINE, w * FINE]

    def fill(self, points: npt.ArrayLike, value: float) -> None:
        """Fills a polygon, float [n, 2] mm."""
        self.frame.fill(self.hu, points, value, FINE)

    def stroke(self, points: npt.ArrayLike, value: float, width: float) -> None:
        """Draws an open line of `width` mm, float [n, 2] mm."""
        self.frame.stroke(self.hu, points, value, width)


def draw_solids(rng: np.random.Generator, frame: Frame, body: Body, level: float) -> FloatArray:
    """Everything but the lungs: float32 [h, w], HU."""
    canvas = _Canvas(frame, np.full([n * FINE for n in frame.shape], AIR, np.float32))
    if rng.random() < 0.5:
        _draw_table(rng, canvas, body)
    _draw_wall(rng, canvas, body, level)
    _draw_ribs(rng, canvas, body, level)
    _draw_mediastinum(rng, canvas, body, level)
    _draw_spine(rng, canvas, body)
    hu = cv2.resize(canvas.hu, frame.shape[::-1], interpolation=cv2.INTER_AREA)
    hu += (hu > -150) * 12 * smooth_noise(rng, frame.shape, 6)
    return hu


def _muscle_depth(body: Body) -> dict[str, float]:
    """How far the muscle reaches beyond the cavity, mm, as `contour` takes it."""
    return {"side": body.muscle + 12, "front": 0.7 * body.muscle + 8, "back": body.muscle + 17}


def _draw_table(rng: np.random.Generator, canvas: _Canvas, body: Body) -> None:
    """Two shells of the scanner's table, behind the skin."""
    sag = rng.uniform(10, 45)
    x = np.linspace(-230, 230, 40)
    back = _muscle_depth(body)["back"]
    y = body.half_depth + back + body.fat + rng.uniform(8, 16) - sag * (x / 200) ** 2
    for gap, value in ((0, -350), (rng.uniform(14, 22), -500)):
        canvas.stroke(np.stack([x, y + gap], -1), value, 2.5)


def _draw_wall(rng: np.random.Generator, canvas: _Canvas, body: Body, level: float) -> None:
    """Skin, fat, muscle with fat between its layers, and above the heart the shoulder blades."""
    fat, (side, front, back) = body.fat, _muscle_depth(body).values()
    skin = contour(body, level, side=side + fat, front=front + 0.8 * fat, back=back + 0.7 * fat)
    canvas.fill(skin, 15)
    canvas.fill(skin * (1 - 2.2 / np.linalg.norm(skin, axis=1, keepdims=True)), FAT)
    canvas.fill(contour(body, level, side=side, front=front, back=back), MUSCLE)
    for _ in range(8):  # fat between muscles, along the wall
        start, length, depth = rng.integers(0, 360), rng.integers(25, 80), rng.uniform(0.45, 0.85)
        arc = np.arange(start, start + length) % 360
        grown = contour(body, level, side=depth * side, front=depth * front, back=depth * back)
        canvas.stroke(grown[arc], FAT + 10, rng.uniform(1.5, 4.0))
    if level < 0.5:
        for sign in (-1, 1):
            grown = contour(body, level, side=0.75 * side, back=0.75 * back + 2)
            arc = grown[rng.integers(28, 36) : rng.integers(50, 60)] * [sign, 1]
            canvas.stroke(arc, CORTEX, 6)
            canvas.stroke(arc, MARROW, 2.5)


def _draw_ribs(rng: np.random.Generator, canvas: _Canvas, body: Body, level: float) -> None:
    """Ribs cut aslant along the wall, their cartilage in front, and the sternum."""
    canvas.fill(contour(body, level, side=3, front=3, back=3), 15)
    rib_line = contour(body, level, side=6.5, front=6.5, back=6.5)
    for sign in (-1, 1):
        front_rib = rib_line[272:300] * [sign, 1]
        canvas.stroke(front_rib, CARTILAGE, 8)
        at = rng.uniform(-62, -48)
        while at < 62:
            length = rng.uniform(6, 22)
            arc = rib_line[np.arange(round(at), round(at + length)) % 360] * [sign, 1]
            width = rng.uniform(7, 9)
            canvas.stroke(arc, CORTEX, width)
            canvas.stroke(arc[1:-1], MARROW, 0.5 * width)
            at += length + rng.uniform(9, 22)
    top = rib_line[270, 1] + rng.uniform(-1, 1)
    sternum_width = rng.uniform(15, 21)
    canvas.fill(ellipse(0, top, sternum_width, 7), CORTEX - 150)
    canvas.fill(ellipse(0, top, sternum_width - 2.5, 4.5), MARROW - 40)


def _draw_mediastinum(rng: np.random.Generator, canvas: _Canvas, body: Body, level: float) -> None:
    """The cavity with what lies between the lungs, and the airways in it."""
    canvas.fill(contour(body, level), 0)
    for outline, value in mediastinum(body, level):
        canvas.fill(outline, value + rng.uniform(-15, 15))
    for outline in _airways(level):
        centre = outline.mean(0)
        canvas.fill(centre + (outline - centre) * 1.18, 20)
        canvas.fill(outline, AIR + 20)


def _draw_spine(rng: np.random.Generator, canvas: _Canvas, body: Body) -> None:
    """A vertebra with its canal and processes, the heads of its ribs, and the muscle around it."""
    x, y = body.spine_x, 0.5 * body.half_depth
    canvas.fill(ellipse(x, y + 26, 34, 26), MUSCLE)
    for sign in (-1, 1):
        wing = np.array([(x + sign * 11, y + 17), (x + sign * 24, y + 24), (x + sign * 36, y + 31)])
        canvas.stroke(wing, CORTEX - 100, 8)
        canvas.stroke(wing[:2], MARROW, 3)
        rib_head = np.array(
            [(x + sign * 21, y + 8), (x + sign * 34, y + 16), (x + sign * 48, y + 29)]
        )
        canvas.stroke(rib_head, CORTEX - 100, 7)
        canvas.stroke(rib_head, MARROW, 3)
    canvas.stroke([(x, y + 34), (x + rng.normal(0, 1.5), y + 58)], CORTEX - 150, 6)
    canvas.fill(ellipse(x, y + 24, 16, 14), CORTEX)
    canvas.fill(ellipse(x, y, 19, 15.5), CORTEX - 100)
    canvas.fill(ellipse(x, y, 17, 13.5), MARROW)
    canvas.fill(ellipse(x, y + 23, 10.5, 9), 25)
