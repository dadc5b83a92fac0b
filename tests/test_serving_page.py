"""The page in a real browser: what a person does, from the drop to the file on the disk."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.browser import CHROMIUM, Browser
from tests.conftest import waves
from tests.conversions import release_of
from tests.serving import running
from translate.convert import convert
from translate.images.decoding import decode
from translate.images.writing import write_image
from translate.networks.layers import Generator
from translate.serve.models import Offer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")


class Negative(Generator):
    """Dark becomes bright, so that what is before and what is after can be told apart wherever one looks."""

    multiple, smallest = 4, 8

    def translate(self, image: torch.Tensor) -> torch.Tensor:
        return -image


def test_a_person_translates_an_image_in_the_browser(tmp_path: Path) -> None:
    """Chosen, foretold, translated, compared, downloaded: the file is convert's, and nothing was asked of others."""
    picture, downloads = waves(3, (300, 400)), tmp_path / "downloads"
    write_image(tmp_path / "photo.png", picture)
    write_image(tmp_path / "pages.tif", waves(4, (40, 50)))
    release = release_of(Negative())
    for name in ("photo.png", "pages.tif"):
        convert(tmp_path / name, tmp_path / "out", release, workers=0, overwrite=True)
    with running([Offer.of("negative", release)]) as server, Browser(tmp_path / "profile") as browser:
        browser.download_to(downloads)
        browser.open(f"{server.address}/")
        browser.wait_for("document.querySelector('#model').value === 'negative'")

        # An image is chosen: its size and the memory it will take are shown, and nothing is translated yet.
        browser.choose_file("#file", tmp_path / "photo.png")
        browser.wait_for("document.querySelector('#memory').textContent.includes('at once')")
        assert "400×300 px" in browser.evaluate("document.querySelector('#size').textContent")
        assert not server.lines

        # It is translated; what is being done was said meanwhile.
        browser.evaluate("""window.said = []; new MutationObserver(() => said.push(document.querySelector('#state')
            .textContent)).observe(document.querySelector('#state'), {childList: true});
            document.querySelector('#go').click()""")
        browser.wait_for("!document.querySelector('#result').hidden && !document.querySelector('.slider').hidden")
        said = [each.split(",")[0] for each in browser.evaluate("said")]
        assert said[0] == "uploading" and {"waiting", "translating", "receiving"} & set(said)
        assert browser.evaluate("document.querySelector('#work').hidden")

        # The slider: what is left of the cut is the input, what is right of it the output; so it is after a pull.
        browser.evaluate("document.querySelectorAll('.slider select')[2].value = '1';"
                         "document.querySelector('.slider input').dispatchEvent(new Event('input'));"
                         "document.querySelector('.slider').scrollIntoView()")
        for share in (50, 20):
            rail, view = (browser.evaluate(f"document.querySelector('.slider {part}').getBoundingClientRect().toJSON()")
                          for part in ("input", ".view"))
            if share != 50:
                y = rail["top"] + rail["height"] / 2
                browser.drag((rail["left"] + rail["width"] / 2, y), (rail["left"] + rail["width"] * share / 100, y))
            browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            cut = float(browser.evaluate("parseFloat(document.querySelector('.divider').style.left)"))
            assert abs(cut - min(view["width"] * share / 100, 400)) < view["width"] * 0.03
            seen = np.asarray(browser.screenshot())[round(view["top"]):, round(view["left"]):][:200, :380].astype(int)
            for columns, expected in ((slice(3, int(min(cut, 380)) - 6), picture),
                                      (slice(int(cut) + 6, 375), 255 - picture)):
                if columns.stop > columns.start:
                    assert np.abs(seen[:, columns] - expected[:200, columns]).mean() < 3, (share, columns)

        # What is downloaded is convert's file.
        browser.evaluate("document.querySelector('#download').click()")
        saved = downloads / "photo.png"
        wait_for_file(saved)
        assert saved.read_bytes() == (tmp_path / "out" / "photo.png").read_bytes()

        # A format that no browser shows is shown all the same, and comes back as it is.
        browser.choose_file("#file", tmp_path / "pages.tif")
        browser.wait_for("document.querySelector('#size').textContent.includes('50×40 px')")
        browser.evaluate("document.querySelector('#go').click()")
        browser.wait_for("!document.querySelector('#result').hidden && !document.querySelector('.slider').hidden")
        shown = browser.evaluate("document.querySelectorAll('.slider img')[1].naturalWidth")
        browser.evaluate("document.querySelector('#download').click()")
        wait_for_file(downloads / "pages.tif")
        assert shown == 50 and (downloads / "pages.tif").read_bytes() == (tmp_path / "out" / "pages.tif").read_bytes()
        assert (decode(saved.read_bytes(), saved).pixels == 255 - picture).all()

        # What is no image is said in words, on the page.
        assert not browser.complaints and all(each.startswith(server.address) for each in browser.requests)
        (tmp_path / "no.png").write_bytes(b"no image")
        browser.choose_file("#file", tmp_path / "no.png")
        browser.wait_for("document.querySelector('#fault').textContent.includes('cannot be shown')")


def test_the_page_asks_for_the_token_and_takes_it_from_behind_its_address(tmp_path: Path) -> None:
    """Whoever opens the printed address is let in; whoever comes without is asked, and is not left with an error."""
    token, loaded = "a-token-of-many-letters", "document.querySelector('#model').value === 'negative'"
    with running([Offer.of("negative", release_of(Negative()))], token=token) as server, \
            Browser(tmp_path / "profile") as browser:
        browser.open(f"{server.address}/#{token}")
        browser.wait_for(loaded)
        assert browser.evaluate("location.hash") == "" and not any(token in each for each in browser.requests)
        assert not browser.complaints
        browser.open(f"{server.address}/?again")
        browser.wait_for("!document.querySelector('#asks').hidden && document.querySelector('#drop').hidden")
        for given, then in (("wrong", "document.querySelector('#fault').textContent.includes('not the right one')"),
                            (token, loaded)):
            browser.evaluate(f"document.querySelector('#token').value = '{given}';"
                             "document.querySelector('#asks button').click()")
            browser.wait_for(then)
        assert browser.evaluate("document.querySelector('#asks').hidden && document.querySelector('#fault').hidden")


def wait_for_file(path: Path) -> None:
    """Wait until a browser has saved a file, which it does under another name first."""
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end, sorted(path.parent.iterdir())
        time.sleep(0.02)
