"""The pictures of the README, made of a finished demo (`make demo`).

    python tools/readme_pictures.py --data data/terrain_small --converted out/terrain --out docs/pictures

demo.jpg            input, output and truth of some tiles of the held-out band, at half their size
before-after.jpg    the northern half of the band, 2000×2350 px, translated in strips by a network trained on crops of
                    128 px; shown at a quarter of that
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GAP = 8  # px between images
CAPTION_HEIGHT = 34  # px
CAPTION_SIZE = 24  # px of a letter's height, about
LARGEST_FILE = 300_000  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of the card terrain_small")
    parser.add_argument("--converted", type=Path, required=True, help="what the demo has made: tiles/ and large/")
    parser.add_argument("--out", type=Path, required=True, help="the folder that the pictures go to")
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)

    # Tiles of the held-out band: one row each for input, output and truth.
    names = sorted(path.name for path in (words.data / "testA").glob("*.png"))[3::4]
    folders = {"input": words.data / "testA", "output": words.converted / "tiles", "truth": words.data / "testB"}
    rows = [captioned(caption, beside([reduced(folder / name, 2) for name in names]))
            for caption, folder in folders.items()]
    save(stacked(rows), words.out / "demo.jpg")

    # One image of many times the size of the crops that the network has seen.
    before, after = (reduced(folder / "north.png", 4) for folder in (words.data / "largeA", words.converted / "large"))
    save(beside([captioned("input", before), captioned("output", after)]), words.out / "before-after.jpg")


def reduced(path: Path, times: int) -> Image.Image:
    """Return an image at a fraction of its size, in colours."""
    image = Image.open(path).convert("RGB")
    return image.reduce(times)


def captioned(caption: str, image: Image.Image) -> Image.Image:
    """Return the image with a line of text above it."""
    sheet = Image.new("RGB", (image.width, image.height + CAPTION_HEIGHT), "white")
    font = ImageFont.load_default(CAPTION_SIZE)
    ImageDraw.Draw(sheet).text((0, CAPTION_HEIGHT // 2), caption, "black", font, anchor="lm")
    sheet.paste(image, (0, CAPTION_HEIGHT))
    return sheet


def beside(images: list[Image.Image]) -> Image.Image:
    """Return images of one height side by side."""
    sheet = Image.new("RGB", (sum(image.width + GAP for image in images) - GAP, images[0].height), "white")
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + GAP
    return sheet


def stacked(images: list[Image.Image]) -> Image.Image:
    """Return images of one width below each other."""
    return beside([image.transpose(Image.Transpose.TRANSPOSE) for image in images]).transpose(
        Image.Transpose.TRANSPOSE)


def save(image: Image.Image, path: Path) -> None:
    """Write a JPEG of at most `LARGEST_FILE` bytes, as good as that allows, and say how large it is."""
    for quality in range(90, 0, -5):
        image.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= LARGEST_FILE:
            break
    print(f"{path}: {image.width}×{image.height} px, quality {quality}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
