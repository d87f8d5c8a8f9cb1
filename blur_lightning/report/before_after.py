"""Photographs before and after, one over the other with a slider, as one self-contained page.

A photograph that is larger than the page is shown twice: whole, reduced, and the middle of it pixel
by pixel, for a reduced photograph looks sharp whatever it is. The page runs no script but its own
and asks for nothing; without scripts both pictures stand side by side.
"""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError, read_image
from blur_lightning.records.robustness import replacing

MOST = 24  # photographs on a page: some 15 MB
_LARGEST, _MIDDLE = 1200, 600  # px, larger side of a picture, and side of a middle

_STYLE = """
:root{color-scheme:light dark}
body{margin:2rem auto;max-width:76rem;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif}
figure{margin:0 0 2.5rem}figcaption,p{color:GrayText}
.pair{display:flex;gap:.3rem;flex-wrap:wrap}.pair img{max-width:49%;height:auto}input{display:none}
.scripted .pair{display:grid;width:fit-content}.scripted .pair img{grid-area:1/1;max-width:100%}
.scripted .pair img+img{clip-path:inset(0 0 0 var(--cut,50%))}
.scripted input{display:block;width:min(100%,40rem);margin:.5rem 0}
"""
_SCRIPT = """
document.documentElement.classList.add('scripted');
for (const slider of document.querySelectorAll('input'))
  slider.oninput = () =>
    slider.previousElementSibling.style.setProperty('--cut', slider.value + '%');
"""


def write_before_after(path: Path, pairs: Sequence[tuple[str, Path, Path]]) -> None:
    """Write the page.

    Args:
        path: The page, which ends in .html.
        pairs: Name, file before and file after of each photograph, both of one size; the first 24
            are shown.

    Raises:
        InputError: A file cannot be read, or two of a pair differ in size.
    """
    figures = [_figures(*pair) for pair in pairs[:MOST]]
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:"
    )
    shown = f"the first {MOST} of " if len(pairs) > MOST else ""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Before and after</title><style>{_STYLE}</style></head><body>"
        f"<h1>Before and after</h1><p>{shown}{len(pairs):,} photographs; left of the cut before, "
        "right of it after. The files themselves are beside this page.</p>"
        f'{"".join(figures)}<script type="module">{_SCRIPT}</script></body></html>\n'
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _figures(name: str, before: Path, after: Path) -> str:
    """A figure of the whole photograph, and one of its middle if that was reduced."""
    try:
        pictures = [Image.fromarray(read_image(file)) for file in (before, after)]
    except UnreadableImageError as error:
        raise InputError(f"{error}; mend or remove it") from error
    width, height = pictures[0].size
    if pictures[1].size != (width, height):
        other = "{}x{}".format(*pictures[1].size)
        raise InputError(f"{after}: {other} pixels, but {before} has {width}x{height}")
    first, second = (np.asarray(picture, dtype=np.float32) for picture in pictures)
    change = np.abs(second - first).mean() / 2.55
    about = f"{name}, {width}x{height} pixels, mean change {change:.2f} % of white"
    if max(width, height) <= _LARGEST:
        return _figure(about, pictures)
    scale = _LARGEST / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    reduced = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    left, top = max(0, width - _MIDDLE) // 2, max(0, height - _MIDDLE) // 2
    box = (left, top, min(width, left + _MIDDLE), min(height, top + _MIDDLE))
    middles = [picture.crop(box) for picture in pictures]
    return _figure(f"{about}, reduced", reduced) + _figure(f"{name}, its middle", middles)


def _figure(about: str, pictures: Sequence[Image.Image]) -> str:
    images = "".join(
        f'<img alt="{side}" src="{_data(picture)}" width="{picture.width}" '
        f'height="{picture.height}">'
        for side, picture in zip(("before", "after"), pictures, strict=True)
    )
    text = escape(about)
    return (
        f'<figure><figcaption>{text}</figcaption><div class="pair">{images}</div>'
        f'<input type="range" min="0" max="100" value="50" aria-label="cut of {text}"></figure>'
    )


def _data(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
