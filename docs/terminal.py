"""Draws docs/terminal.png: the text of a real run, as a terminal shows it.

    python docs/terminal.py < TEXT

Lines that start with `$ ` are commands.
"""

import sys
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SIZE_PX, LINE_PX, MARGIN_PX = 15, 21, 18
BACKGROUND, TEXT, COMMAND = "#1b1f27", "#d5d9e0", "#8fd694"


def main(lines: list[str]) -> None:
    """Draws the lines, commands in bold."""
    plain, bold = (
        ImageFont.truetype(str(FONTS / name), SIZE_PX)
        for name in ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf")
    )
    width = round(max(plain.getlength(line) for line in lines)) + 2 * MARGIN_PX
    picture = Image.new("RGB", (width, LINE_PX * len(lines) + 2 * MARGIN_PX), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    typing = False
    for number, line in enumerate(lines):
        typing = line.startswith("$ ") or (typing and lines[number - 1].endswith("\\"))
        place = (MARGIN_PX, MARGIN_PX + number * LINE_PX)
        draw.text(place, line, COMMAND if typing else TEXT, font=bold if typing else plain)
    picture.quantize(32).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main(sys.stdin.read().rstrip("\n").splitlines())
