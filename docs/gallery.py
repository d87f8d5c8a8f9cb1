"""Draw blurs.jpg, which README.md shows: one picture under one blur of every kind.

python docs/gallery.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from blur_lightning.blur import BlurDistribution, blur_images
from blur_lightning.data.procedural import scene

NAMES = """sharp D4 M16@30 shake G4 D8%50
airy6 defocus0.8 astigmatism0.8@45 coma0.5@30 trefoil0.7 spherical0.3
defocus_blur-4 motion_blur-4 zoom_blur-4 glass_blur-4 motion_blur_legacy-4 glass_blur_legacy-4"""
SIDE, GAP, CAPTION = 160, 6, 18
PICTURE = 8  # a scene with edges, thin lines and colours
LAMPS = ((30, 60), (45, 135), (110, 40), (128, 88), (84, 138))  # (row, column) of points of light


def main() -> None:
    """Write the picture beside this file."""
    rows = [line.split() for line in NAMES.splitlines()]
    width = len(rows[0]) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (width, len(rows) * (SIDE + CAPTION + GAP) - GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    pixels = scene(seed=0, index=PICTURE, size=SIDE).frames
    image = (torch.from_numpy(pixels).permute(0, 3, 1, 2) * 0.5).byte()
    for row, column in LAMPS:
        image[..., row : row + 2, column : column + 2] = 255
    for top, names in enumerate(rows):
        for left, name in enumerate(names):
            blur = BlurDistribution.parse(name).draw(seed=0, index=4)
            blurred = blur_images(image, [blur], border="replicate", light="linear")[0].permute(
                1, 2, 0
            )
            x, y = left * (SIDE + GAP), top * (SIDE + CAPTION + GAP)
            sheet.paste(Image.fromarray(np.ascontiguousarray(blurred.numpy())), (x, y))
            draw.text((x, y + SIDE + 2), name, fill="black", font=font)
    sheet.save(Path(__file__).with_name("blurs.jpg"), quality=90)


if __name__ == "__main__":
    main()
