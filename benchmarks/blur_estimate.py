"""Trains the estimator of `blur_lightning.blur_estimate`, and measures its errors.

    python benchmarks/blur_estimate.py [--photographs data/photographs] [--stamps data/stamps]

It is trained on parts of the photographs of Debian's packages lomiri-wallpapers-16.04,
lomiri-wallpapers-20.04 and mate-backgrounds, on photographs of objects pasted on the last (`make
stamps`) and on procedural scenes, each reduced to a shorter side of 384 pixels, then blurred by the
engine, half of them with noise and half of them stored as JPEG. Blurs: none, disks of radius 0.7 to
12 and lines of length 2 to 24 in any direction.

Errors are those on the 20 photographs of the package foolbox, and on scenes of another seed, none
of which is trained on. Sizes under 95 % intervals come from a bootstrap over photographs.
"""

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from blur_lightning import blur_estimate
from blur_lightning.blur import Blur, BlurDistribution, blur_images
from blur_lightning.blur_estimate import (
    BANDS,
    DIRECTIONS,
    SIDE,
    BlurEstimate,
    estimate_blur,
    grey_picture,
    spectral_profiles,
)
from blur_lightning.data.photos import PhotosDataModule
from blur_lightning.data.procedural import scene
from blur_lightning.errors import InputError
from blur_lightning.images import image_files, read_image, resize_smaller_side
from blur_lightning.records.robustness import (
    bootstrap_interval,
    replacing,
    wilson_interval,
    write_table,
)

WEIGHTS = Path(blur_estimate.__file__).with_suffix(".json")
PACKAGES = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds")
# Beginnings of the names of drawings and of what is blurred by intent.
NO_PHOTOGRAPHS = ("Fossa", "Infinite", "Painting", "analogpattern", "umang", "TwoWings", "Aqua")
RADII = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0)
LENGTHS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 11.0, 15.0, 20.0, 25.0)
HIDDEN = (32, 24)  # units of the two layers
PARTS, EACH = 16, 6  # of each photograph, and blurs of each picture
STAMPS, SCENES = 250, 150  # pictures
TESTED = ("sharp", "D1", "D2", "D3", "D4", "D6", "D8", "D10")
TESTED += tuple(f"M{length}@0..180" for length in (4, 6, 8, 12, 16, 20))
UNTRAINED = ("G1", "G2", "G4", "shake")
HARMED = ("sharp", "D2", "D4", "M8@0..180", "M16@0..180")


class Sample(NamedTuple):
    """What the network sees of one blurred picture, and its blur."""

    profiles: np.ndarray  # (directions, features)
    blur: Blur


def parts_of(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random part of a large photograph, reduced to a shorter side of 384 pixels."""
    rows, columns = pixels.shape[:2]
    least = min(rows, columns, round(1.4 * SIDE))
    side = int(np.exp(generator.uniform(np.log(least), np.log(min(rows, columns)))))
    shape = (side, min(columns, side * 4 // 3))
    if generator.random() < 0.4:
        shape = (min(rows, side * 4 // 3), side)
    top, left = generator.integers(rows - shape[0] + 1), generator.integers(columns - shape[1] + 1)
    return resize_smaller_side(pixels[top : top + shape[0], left : left + shape[1]], SIDE)


def pictures(photographs: Path, stamps: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every picture to train on, with a name."""
    for file in image_files(photographs):
        if file.name.startswith(NO_PHOTOGRAPHS):
            continue
        pixels = read_image(file)
        for part in range(PARTS):
            name = f"{file.name}/{part}"
            yield name, parts_of(pixels, np.random.default_rng([1, key(name)]))
    listed = stamps / "ImageSets" / "Segmentation" / "train.txt"
    for name in listed.read_text(encoding="utf-8").split()[:STAMPS]:
        yield name, read_image(stamps / "JPEGImages" / f"{name}.jpg")
    for index in range(SCENES):
        yield f"scene {index}", scene(7, index, size=SIDE).frames[0]


def key(name: str) -> int:
    """A number that a name stands for."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")


def drawn(generator: np.random.Generator) -> Blur:
    """A blur to train on: a fifth are sharp, two fifths disks, and two fifths lines."""
    kind, size, even = generator.random(3)
    if kind < 0.2:
        return Blur("sharp")
    if kind < 0.6:
        # Half of them evenly, half evenly by their logarithm.
        radius = 0.7 + 11.3 * size if even < 0.5 else 0.7 * (12 / 0.7) ** size
        return Blur("disk", float(radius))
    angle = generator.uniform(0, 180) if even < 0.8 else generator.choice([0.0, 90.0])
    return Blur("motion", float(2 * 12**size), float(angle))


def blurred(pixels: np.ndarray, blur: Blur, rim: Any = "hard") -> np.ndarray:
    """One picture of 8 bits under a blur."""
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    return blur_images(image, [blur], rim=rim)[0].permute(1, 2, 0).numpy()


def noisy(pixels: np.ndarray, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """With Gaussian noise of so many levels of 255."""
    values = pixels + generator.normal(0, sigma, pixels.shape)
    return values.round().clip(0, 255).astype(np.uint8)


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """As JPEG of that quality holds it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def samples(photographs: Path, stamps: Path) -> Iterator[Sample]:
    """All that the network is trained on, each drawn from its picture's name and a number."""
    for name, pixels in pictures(photographs, stamps):
        for number in range(EACH):
            generator = np.random.default_rng([2, key(name), number])
            blur, rim = drawn(generator), str(generator.choice(["hard", "area"]))
            picture = blurred(pixels, blur, rim)
            if generator.random() < 0.5:
                picture = noisy(picture, generator.uniform(0.5, 5), generator)
            if generator.random() < 0.5:
                picture = as_jpeg(picture, int(generator.integers(50, 98)))
            yield Sample(spectral_profiles(grey_picture(picture)), blur)


def target(blur: Blur) -> np.ndarray:
    """Probabilities of the disks, then of the lines of each direction, shared by neighbours."""
    disks, lines = np.zeros(len(RADII)), np.zeros((DIRECTIONS, len(LENGTHS)))
    if blur.family != "motion":
        disks += shared(RADII, blur.parameter)
    else:
        length = shared(LENGTHS, max(blur.parameter, LENGTHS[0]))
        place = blur.angle % 180 / 180 * DIRECTIONS
        lower, part = int(place), place % 1
        lines[lower % DIRECTIONS] += (1 - part) * length
        lines[(lower + 1) % DIRECTIONS] += part * length
    return np.concatenate([disks, lines.ravel()])


def shared(grid: Sequence[float], value: float) -> np.ndarray:
    """Weights of the two points of a grid beside a value, whose mean it is."""
    return np.array([np.interp(value, grid, row) for row in np.eye(len(grid))])


class Network(nn.Module):
    """What `blur_estimate.probabilities` computes, for training."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * BANDS + 1, HIDDEN[0])
        self.second = nn.Linear(*HIDDEN)
        self.lines = nn.Linear(HIDDEN[1], len(LENGTHS))
        self.disks = nn.Linear(2 * HIDDEN[1], len(RADII))

    def forward(self, profiles: Tensor) -> Tensor:
        """Logarithms of the probabilities (n, disks and lines) of profiles (n, d, f)."""
        hidden = torch.relu(self.second(torch.relu(self.first(profiles))))
        pooled = torch.cat([hidden.mean(1), hidden.amax(1)], dim=1)
        logits = torch.cat([self.disks(pooled), self.lines(hidden).flatten(1)], dim=1)
        return logits.log_softmax(dim=1)


def trained(profiles: Tensor, targets: Tensor, *, epochs: int) -> Network:
    """Fit the network by AdamW on one cycle of the learning rate."""
    torch.manual_seed(0)
    network, batch = Network(), 128
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    steps = epochs * (len(profiles) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(profiles))[: len(profiles) // batch * batch]
        for chosen in order.view(-1, batch):
            # A little noise stands for photographs that are not among these.
            seen = profiles[chosen] + 0.02 * torch.randn_like(profiles[chosen])
            loss = -(targets[chosen] * network(seen)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {total * batch / len(profiles):.3f}", flush=True)
    return network.eval()


def rounded(tensor: Tensor) -> list[Any]:
    """Numbers with four digits, as the file keeps them."""
    return np.vectorize(lambda x: float(f"{x:.4g}"))(tensor.detach().numpy()).tolist()  # type: ignore[no-any-return]


def held_out() -> dict[str, list[np.ndarray]]:
    """Pictures that nothing was trained on, by their kind."""
    data = PhotosDataModule()
    source = data.source("predict")
    photographs = [resize_smaller_side(source.load(i), SIDE) for i in range(len(source.names))]
    scenes = [scene(8, index, size=SIDE).frames[0] for index in range(50)]
    return {"photographs": photographs, "scenes": scenes}


def measured(kind: str, pixels: Sequence[np.ndarray], name: str, harm: str) -> dict[str, Any]:
    """How right the estimates of some pictures are under one blur."""
    mix = BlurDistribution.parse(name)
    pairs: list[tuple[Blur, BlurEstimate]] = []
    for index, picture in enumerate(pixels):
        blur, generator = mix.draw(seed=0, index=index), np.random.default_rng([3, index])
        seen = blurred(picture, blur)
        if harm.startswith("noise"):
            seen = noisy(seen, float(harm.split()[1]), generator)
        if harm.startswith("JPEG"):
            seen = as_jpeg(seen, int(harm.split()[1]))
        estimate = estimate_blur(seen)
        if estimate.estimated_blur:
            pairs.append((blur, estimate))
    is_line = [e.estimated_blur.startswith("M") for _, e in pairs]
    moved = [blur.family in ("motion", "shake") for blur, _ in pairs]
    alike = [
        (b, e) for (b, e), one, other in zip(pairs, is_line, moved, strict=True) if one == other
    ]
    right = [e.estimated_blur == "sharp" for _, e in pairs] if name == "sharp" else None
    hits = sum(right) if right is not None else len(alike)
    sizes = np.array([e.estimated_size for _, e in alike])
    true = np.array([2 * b.parameter if b.family == "gaussian" else b.parameter for b, _ in alike])
    row: dict[str, Any] = {"images": kind, "blur": name, "harm": harm, "n": len(pairs)}
    row |= dict(
        zip(
            ("kind_right", "kind_low", "kind_high"),
            (hits / len(pairs), *wilson_interval(hits, len(pairs))),
            strict=True,
        )
    )
    row["median_size"] = float(np.median(sizes)) if len(sizes) else ""
    errors = np.abs(sizes - true)
    known = len(errors) and name != "shake"
    ends = bootstrap_interval(errors) if known else ("", "")
    row |= {"error": errors.mean() if known else "", "low": ends[0], "high": ends[1]}
    inside = [
        e.estimated_low <= t <= e.estimated_high for (_, e), t in zip(alike, true, strict=True)
    ]
    row["inside_interval"] = float(np.mean(inside)) if known else ""
    angles = [
        abs((float(e.estimated_blur.split("@")[1]) - b.angle + 90) % 180 - 90)
        for b, e in alike
        if b.family == "motion"
    ]
    row["median_angle_error"] = float(np.median(angles)) if angles else ""
    return {k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()}


def errors_of(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What is told with every estimate: the means over the blurs of photographs as they are."""
    own = [r for r in rows if r["images"] == "photographs" and r["harm"] == "none"]
    own = [r for r in own if r["blur"] in TESTED]
    disks, lines = ([r for r in own if r["blur"].startswith(kind)] for kind in "DM")
    return {
        "photographs": str(own[0]["n"]),
        "radii": "1 to 10",
        "radius": f"{np.mean([float(r['error']) for r in disks]):.1f}",
        "lengths": "4 to 20",
        "length": f"{np.mean([float(r['error']) for r in lines]):.1f}",
        "kinds": f"{100 * np.mean([float(r['kind_right']) for r in own]):.1f}",
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write the weights and what is known of them, a line for each part of the file."""
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in content.items())
    with replacing(path) as temporary:
        temporary.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def main() -> None:
    """Train, write the weights, and then the errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, default=Path("data/photographs"))
    parser.add_argument("--stamps", type=Path, default=Path("data/stamps"))
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/blur_estimate.csv"))
    parser.add_argument("--measure", action="store_true", help="measure the weights that are there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.measure:
        for folder in (options.photographs, options.stamps):
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder; make estimator fetches what it holds")
        write_weights(options)
    blur_estimate.model.cache_clear()
    blur_estimate._layer.cache_clear()
    blur_estimate._grid.cache_clear()
    rows = []
    for kind, pixels in held_out().items():
        rows += [measured(kind, pixels, name, "none") for name in TESTED]
        if kind == "photographs":
            rows += [measured(kind, pixels, name, "none") for name in UNTRAINED]
            for harm in ("noise 2", "noise 5", "noise 10", "JPEG 90", "JPEG 70", "JPEG 40"):
                rows += [measured(kind, pixels, name, harm) for name in HARMED]
    for row in rows:
        print(*row.values())
    write_table(options.out, [{name: [row[name] for row in rows] for name in rows[0]}])
    content = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    write_json(WEIGHTS, content | {"errors": errors_of(rows)})


def write_weights(options: argparse.Namespace) -> None:
    """Train the network and write its weights beside what they come from."""
    found = list(samples(options.photographs, options.stamps))
    print(f"{len(found)} pictures to train on", flush=True)
    profiles = torch.tensor(np.stack([one.profiles for one in found]), dtype=torch.float32)
    targets = torch.tensor(np.stack([target(one.blur) for one in found]), dtype=torch.float32)
    network = trained(profiles, targets, epochs=options.epochs)
    layers = {
        name: {"weight": rounded(layer.weight), "bias": rounded(layer.bias)}
        for name, layer in network.named_children()
    }
    files = [
        file
        for file in image_files(options.photographs)
        if not file.name.startswith(NO_PHOTOGRAPHS)
    ]
    content = {
        "made_by": "python benchmarks/blur_estimate.py",
        "date": datetime.now(UTC).date().isoformat(),
        "trained_on": {
            "photographs": f"{len(files)} of Debian's {', '.join(PACKAGES)}",
            "pasted photographs": STAMPS,
            "procedural scenes": SCENES,
            "blurred pictures": len(found),
        },
        "radii": RADII,
        "lengths": LENGTHS,
        "layers": layers,
    }
    write_json(WEIGHTS, content)
    print(f"{sum(p.numel() for p in network.parameters())} weights written: {WEIGHTS}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
