"""How blurry photographs are, as a page of their own and as a part of a report.

A reduced photograph looks sharp whatever it is. So beside the whole of each stands its middle, of
the pixels at which its blur was estimated.
"""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import isinf, isnan
from pathlib import Path

import numpy as np
from PIL import Image

from blur_lightning.blur_estimate import SIDE, model
from blur_lightning.images import UnreadableImageError, resize_smaller_side
from blur_lightning.records.curves import COLOURS, RC
from blur_lightning.records.photographs import (
    KINDS,
    PREDICTIONS,
    Photograph,
    read_photographs,
    suggest_mix,
)
from blur_lightning.records.robustness import RECORDS, replacing
from blur_lightning.records.rounding import rounded
from blur_lightning.report.figures import inline_svg

PAGE = "blurriness.html"
MOST = 200  # photographs on a page: some 4 MB
_HEIGHT = 192  # px, of pictures
_STYLE = """
:root{color-scheme:light dark;--rule:color-mix(in srgb,currentColor 20%,transparent)}
body{margin:2rem auto;max-width:76rem;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif}
h3{font-size:1rem;margin:0}.note,p small{color:GrayText}svg{max-width:100%;height:auto}
.photographs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,34rem),1fr));
gap:1.5rem}
figure{margin:0}figcaption{overflow-wrap:anywhere}.pictures{display:flex;gap:.3rem;overflow:hidden}
code{font-size:1.05em}
"""


def write_blurriness(
    path: Path, photographs: Sequence[Photograph], load: Callable[[str], np.ndarray]
) -> None:
    """Write the page of a prediction: the blurriest photographs first.

    Args:
        path: The page, which ends in .html.
        photographs: In the order of the page; the first 200 are shown.
        load: Pixels, uint8 (h, w, 3), of a photograph by its name.

    Raises:
        InputError: The page cannot be written.
    """
    shown = f"The {MOST} blurriest of " if len(photographs) > MOST else ""
    figures = "".join(_figure(one, load) for one in photographs[:MOST])
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>How blurry photographs are</title><style>{_STYLE}</style></head><body>"
        f"<h1>How blurry photographs are</h1>{distribution_html(photographs)}"
        f"<h2>{shown}{len(photographs):,} photographs</h2>"
        f'<p class="note">The blurriest first: the whole, and its middle as it is where its '
        f"shorter side has {SIDE} pixels.</p>"
        f'<div class="photographs">{figures}</div></body></html>\n'
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def distribution_html(photographs: Sequence[Photograph]) -> str:
    """Histograms of the blur of photographs, and the mix that they suggest to train on."""
    suggestion = suggest_mix(photographs)
    mix = ""
    if suggestion.mix == "sharp":
        mix = "<p>Too few are blurred to train on blur for them.</p>"
    elif suggestion.mix:
        mix = f"<p>A mix to train on: <code>--data.blur '{escape(suggestion.mix)}'</code></p>"
    return (
        f"<figure>{inline_svg(_histograms(photographs))}</figure>{mix}"
        f'<p class="note">{escape(suggestion.reasons)} Lengths are pixels where the shorter side '
        f"has {SIDE}, as at the canonical scale. {escape(errors_text())}</p>"
    )


def errors_text() -> str:
    """How far estimates are off, in a sentence."""
    errors = model()["errors"]
    return (
        f"On {errors['photographs']} photographs that the estimate was not trained on, radii of "
        f"{errors['radii']} pixels were off by {errors['radius']} on average, lengths of "
        f"{errors['lengths']} pixels by {errors['length']}; {errors['kinds']} % of the kinds "
        "were right. Photographs with other blurs, such as shake, are put down as one of these."
    )


def photographs_html(paths: Iterable[Path]) -> str:
    """What the predictions below some folders found, for a report; "" where there is none."""
    parts = [
        f"<h3>{escape(str(file.parent))}</h3>{distribution_html(read_photographs(file))}"
        for file in prediction_files(paths)
    ]
    return f"<h2>Photographs</h2>{''.join(parts)}" if parts else ""


def prediction_files(paths: Iterable[Path]) -> list[Path]:
    """The predictions with estimates below some folders, each once."""
    found = {f.resolve(): f for path in paths if path.is_dir() for f in path.rglob(PREDICTIONS)}
    return sorted(file for file in found.values() if _has_estimates(file))


def only_predicted(path: Path) -> bool:
    """Whether a folder holds predictions and no record of a test."""
    return path.is_dir() and not any(path.rglob(RECORDS)) and bool(prediction_files([path]))


def _has_estimates(file: Path) -> bool:
    with file.open(encoding="utf-8", errors="replace") as stream:
        return "estimated_blur" in stream.readline()


def _histograms(photographs: Sequence[Photograph]) -> str:
    """How many photographs are of each kind, and how large the radii and lengths are."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", RC | {"svg.hashsalt": "photographs"}]):
        figure = Figure((8.4, 2.2), layout="constrained")
        kinds, *others = figure.subplots(1, 3)
        counts = {KINDS[kind]: sum(one.kind == kind for one in photographs) for kind in KINDS}
        bars = kinds.barh([*counts], [*counts.values()], color=COLOURS[0])
        kinds.bar_label(bars, padding=2)
        kinds.invert_yaxis()
        kinds.set(xlabel="photographs", xmargin=0.15)
        kinds.xaxis.get_major_locator().set_params(integer=True)
        labels = {"D": "radius of defocus (px)", "M": "length of motion (px)"}
        for axes, (kind, label) in zip(others, labels.items(), strict=True):
            sizes = [one.size for one in photographs if one.kind == kind]
            width = 1 if kind == "D" else 2
            edges = np.arange(-0.5, max([12 * width, *sizes]) / width + 1) * width
            axes.hist(sizes, bins=edges, color=COLOURS[0])
            axes.yaxis.get_major_locator().set_params(integer=True)
            axes.set(xlabel=label, ylabel="photographs", ylim=(0, None if sizes else 1))
        stream = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing, facecolor="none")
    return stream.getvalue()


def _figure(photograph: Photograph, load: Callable[[str], np.ndarray]) -> str:
    """One photograph: what was found, the whole, and the middle."""
    try:
        pixels = load(photograph.file)
    except UnreadableImageError:  # removed or damaged since
        return f"<figure><figcaption>{_text(photograph)}</figcaption></figure>"
    whole = Image.fromarray(pixels)
    whole.thumbnail((2 * _HEIGHT, _HEIGHT))
    if min(pixels.shape[:2]) > SIDE:
        pixels = resize_smaller_side(pixels, SIDE)
    top, left = (max(0, side - _HEIGHT) // 2 for side in pixels.shape[:2])
    middle = Image.fromarray(pixels[top : top + _HEIGHT, left : left + _HEIGHT])
    pictures = "".join(
        f'<img alt="{name}" src="{_data(picture)}" width="{picture.width}" '
        f'height="{picture.height}" loading="lazy">'
        for name, picture in (("whole", whole), ("middle", middle))
    )
    return (
        f'<figure><div class="pictures">{pictures}</div>'
        f"<figcaption>{_text(photograph)}</figcaption></figure>"
    )


def _text(one: Photograph) -> str:
    """What was found in a photograph, as HTML."""
    if not one.blur:
        found = "blur cannot be told: flat, or smaller than 128 pixels"
    elif one.kind == "sharp":
        found = f"sharp (radius below {_plain(one.high)} px)"
    else:
        noun = "radius" if one.kind == "D" else "length"
        found = (
            f"{KINDS[one.kind]}: {noun} {_plain(one.size)} px "
            f"({_plain(one.low)} to {_plain(one.high)}), {_plain(one.native)} px of the file"
        )
    texts = [f"{found}; sharpness {rounded(one.sharpness, 0)}"]
    if one.answer:
        texts.append(f"class {one.answer}, confidence {rounded(100 * one.confidence, 0)} %")
    if not isnan(one.critical):
        weakest = "none found" if isinf(one.critical) else f"{_plain(one.critical)} px"
        texts.append(f"blur that changes the answer: {weakest}")
    blur = f" <code>{escape(one.blur)}</code>" if one.blur else ""
    lines = "<br>".join(escape(text) for text in texts)
    return f"<h3>{escape(one.file)}{blur}</h3>{lines}"


def _plain(number: float) -> str:
    return f"{number:.3g}" if number >= 10 else rounded(number, 1)


def _data(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
