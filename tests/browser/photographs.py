"""Photographs as a stranger brings them, with captions: cut out of those that scikit-image has."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from PIL import Image

CAPTIONS = Path(__file__).parents[1] / "references" / "photographs" / "image_to_caption.json"
ORIENTATION = 0x0112


def take_photographs(folder: Path, count: int) -> tuple[Path, Path]:
    """`count` JPEG files cut out of scikit-image's photographs, as phones and cameras leave them, and their captions."""
    import skimage.data

    known = {name: texts for name, texts in json.loads(CAPTIONS.read_text()).items() if "aok_" not in name}
    rng, rows = random.Random(count), []
    pictures = folder / "my photographs"
    (pictures / "trip").mkdir(parents=True)
    for number in range(count):
        name = sorted(known)[number % len(known)]
        photograph = Image.open(Path(skimage.data.__file__).parent / name)
        width, height = photograph.size
        left, top = rng.randint(0, width // 2), rng.randint(0, height // 2)
        photograph = photograph.crop((left, top, left + width // 2, top + height // 2))
        photograph = photograph.resize((rng.randint(180, 1600), rng.randint(180, 1200)))
        exif = Image.Exif()
        exif[ORIENTATION] = rng.choice([1, 3, 6, 8])
        target = f"trip/IMG {number:04d}.JPG" if number % 3 == 0 else f"{Path(name).stem}_{number}.jpeg"
        photograph.convert(rng.choice(["RGB", "RGB", "L"])).save(pictures / target, "JPEG", exif=exif)
        rows += [(target, caption) for caption in known[name]]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return pictures, folder / "captions.csv"
