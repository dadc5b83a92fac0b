"""The picture of `translate serve`'s page in the docs: a real browser, a real model, a real image.

    python tools/page_picture.py --run runs/earth --image data/earth/largeA/north.png --out docs/pictures/page.png

Needs a Chromium (`apt-get install chromium`). Of a large image the part in the middle is shown, 600×400 px.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from PIL import Image

from tests.browser import Browser
from tests.serving import running
from translate.runs.release import load_release
from translate.serve.models import Offer

WINDOW = (1000, 1080)  # px
PART = (600, 400)  # px
COLOURS = 256  # of the PNG: a third of the file, and nobody sees it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a run or a release")
    parser.add_argument("--image", type=Path, required=True, help="what is translated")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    words = parser.parse_args()

    release = load_release(words.run)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        whole = Image.open(words.image)
        left, top = (whole.width - PART[0]) // 2, (whole.height - PART[1]) // 2
        part = Path(folder) / words.image.name
        whole.crop((left, top, left + PART[0], top + PART[1])).save(part)
        with running([Offer.of(release.name, release)]) as server, Browser(Path(folder) / "profile", WINDOW) as browser:
            browser.open(f"{server.address}/")
            browser.wait_for("document.querySelector('#model').value")
            browser.choose_file("#file", part)
            browser.wait_for("document.querySelector('#memory').textContent")
            browser.evaluate("document.querySelector('#go').click()")
            browser.wait_for("!document.querySelector('#result').hidden && !document.querySelector('.slider').hidden")
            browser.evaluate("document.querySelector('#go').blur()")
            time.sleep(0.5)
            picture = browser.screenshot()
    words.out.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(COLOURS).save(words.out, optimize=True)


if __name__ == "__main__":
    main()
