"""Cards whose source is a package of Debian, downloads that were interrupted, and rasters that come in tiles."""

from __future__ import annotations

import functools
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.archives import wheel
from translate.cards.archives import unpack
from translate.cards.cards import Card, find_card, prepare
from translate.cards.resuming import download
from translate.errors import DataError, RecipeError
from translate.files import sha256
from translate.images.reading import ImageConfig
from translate.images.tensors import to_tensor
from translate.metrics.alignment import align
from translate.schema import validate


def tar_bytes(members: dict[str, bytes], compression: str) -> bytes:
    file = io.BytesIO()
    fast: dict[str, Any] = {"xz": {"preset": 0}, "gz": {"compresslevel": 1}}.get(compression, {})
    with tarfile.open(fileobj=file, mode=f"w:{compression}", **fast) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def debian(path: Path, members: dict[str, bytes], compression: str = "xz") -> Path:
    """A package as dpkg-deb builds it: an ar archive of its version, what is about it, and its files."""
    if compression == "zst":
        zstd = pytest.importorskip("backports.zstd", reason="no module here compresses by Zstandard")
        data = zstd.compress(tar_bytes(members, ""))
    else:
        data = tar_bytes(members, compression)
    content = b"!<arch>\n"
    for name, part in (("debian-binary", b"2.0\n"), ("control.tar.xz", tar_bytes({"./control": b"odd"}, "xz")),
                       (f"data.tar.{compression}", data)):
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode() + part
        content += b"\n" * (len(part) % 2)
    path.write_bytes(content)
    return path


class TestUnpacking:
    @pytest.mark.parametrize("compression", ["xz", "gz", "zst"])
    def test_the_files_of_a_package_of_debian_are_unpacked(self, compression: str, tmp_path: Path) -> None:
        content = np.random.default_rng(0).bytes(2_000_001)
        package = debian(tmp_path / "a.deb", {"./usr/share/a": content, "./usr/share/b": b"b"}, compression)
        unpack(package, tmp_path / "all", 10**7)
        assert (tmp_path / "all/usr/share/a").read_bytes() == content
        unpack(package, tmp_path / "one", 10**7, only={"usr/share/b"})
        assert [path.name for path in (tmp_path / "one").rglob("*") if path.is_file()] == ["b"]

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
    def test_a_damaged_package_is_refused(self, part: float, tmp_path: Path) -> None:
        package = debian(tmp_path / "a.deb", {"./a": np.random.default_rng(0).bytes(100_000)})
        package.write_bytes(package.read_bytes()[:int(part * package.stat().st_size)])
        with pytest.raises(DataError, match="damaged"):
            unpack(package, tmp_path / "out", 10**7)

    def test_a_package_that_leads_out_of_its_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="leads out of the folder"):
            unpack(debian(tmp_path / "a.deb", {"./../../canary": b"x"}), tmp_path / "out", 10**7)


# ---------------------------------------------------------------------------------------------- downloads


class Server:
    """Serves one file on this machine, and breaks the connection after `most` bytes while that is not None."""

    def __init__(self) -> None:
        self.content, self.tag, self.most, self.asked = b"", '"1"', None, []  # type: ignore[var-annotated]

    def handler(outside) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content, first = outside.content, 0
                wanted = self.headers.get("Range")
                outside.asked.append(wanted)
                if wanted and self.headers.get("If-Range") == outside.tag:
                    first = int(wanted.removeprefix("bytes=").rstrip("-"))
                self.send_response(206 if first else 200)
                if first:
                    self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(content) - first))
                if outside.tag:
                    self.send_header("ETag", outside.tag)
                self.end_headers()
                self.wfile.write(content[first:][:outside.most])

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[Any]:
    about = Server()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), about.handler()) as served:
        thread = threading.Thread(target=functools.partial(served.serve_forever, 0.02))
        thread.start()
        about.url = f"http://127.0.0.1:{served.server_port}/a.deb"  # type: ignore[attr-defined]
        yield about
        served.shutdown()
        thread.join()


class TestInterrupted:
    def interrupted(self, server: Any, target: Path) -> None:
        """A download of 3 MB that breaks after 2."""
        server.content, server.most = np.random.default_rng(0).bytes(3_000_000), 2_000_000
        with pytest.raises(DataError, match="could not be downloaded"):
            download(server.url, target, lambda line: None)
        assert not target.exists()
        server.most = None

    def test_a_download_goes_on_behind_the_last_byte(self, server: Any, tmp_path: Path) -> None:
        self.interrupted(server, tmp_path / "a.deb")
        said: list[str] = []
        download(server.url, tmp_path / "a.deb", said.append)
        assert (tmp_path / "a.deb").read_bytes() == server.content and server.asked[1].startswith("bytes=")
        assert int(server.asked[1][6:-1]) > 0 and said == ["a.deb: going on after 2 MB"]
        assert [path.name for path in tmp_path.iterdir()] == ["a.deb"]

    @pytest.mark.parametrize("tag", ['"2"', "", 'W/"1"'])
    def test_a_file_that_may_have_changed_meanwhile_is_downloaded_anew(self, tag: str, server: Any, tmp_path: Path
                                                                       ) -> None:
        server.tag = '"1"' if tag == '"2"' else tag
        self.interrupted(server, tmp_path / "a.deb")
        server.content, server.tag = bytes(reversed(server.content)), tag
        download(server.url, tmp_path / "a.deb", lambda line: None)
        assert (tmp_path / "a.deb").read_bytes() == server.content

    def test_what_had_come_of_a_data_set_is_not_fetched_again(self, server: Any, tmp_path: Path) -> None:
        """Of two packages the second breaks off: neither the first nor the half of the second comes twice."""
        card, package = toy(server, tmp_path)
        server.content, server.most = package.read_bytes(), 50_000
        with pytest.raises(DataError, match=r"(?s)could not be downloaded.*apt-get download diptych-toy=1:2.0-1"):
            prepare(card, tmp_path / "data")
        assert not (tmp_path / "data" / "toy").exists()
        server.most = None
        made = prepare(card, tmp_path / "data")
        assert len(list((made / "trainA").iterdir())) == 6
        assert server.asked[0] is None and 0 < int(server.asked[1][6:-1]) <= 50_000
        assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["cards.lock.json", "toy"]

    def test_a_changed_package_is_named_and_the_right_one_taken_next(self, server: Any, tmp_path: Path) -> None:
        card, package = toy(server, tmp_path)
        source = card.source.packages[0]  # type: ignore[union-attr]
        card = card.model_copy(update={"source": source})
        server.content = debian(tmp_path / "other.deb", {"./else": b"x"}).read_bytes()
        with pytest.raises(DataError, match=r"(?s)diptych-toy_2.0-1.deb: not the expected file.*wanted .* by its card"):
            prepare(card, tmp_path / "data")
        server.content = package.read_bytes()
        with pytest.raises(DataError, match=r"holds no pkg/relief\.jpg"):  # which the other package has
            prepare(card, tmp_path / "data")
        assert server.asked == [None, None]


def test_a_card_cannot_pass_options_to_apt() -> None:
    for source in ({"package": "-oDPkg::Pre=x"}, {"package": "x", "version": "-q"}, {"package": "x y"}):
        with pytest.raises(RecipeError, match="source"):
            validate(Card, find_card("earth").model_dump() | {"source": {"kind": "debian", "version": "1",
                                                                   "url": "http://x/y.deb"} | source}, "x")


# ---------------------------------------------------------------------------------------------- rasters in tiles


def jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def toy(server: Any, folder: Path) -> tuple[Card, Path]:
    """A card like `terrain` on a small world: smooth elevation in 2×4 tiles, and a relief of it.

    pip finds its packages here, and apt none: what this machine's apt knows takes seconds to be gone through.
    """
    os.environ["PIP_NO_INDEX"], os.environ["PIP_FIND_LINKS"] = "1", str(folder / "wheels")
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "apt.conf").write_text(f'Dir::State::lists "{folder}/lists"; Dir::Cache::pkgcache "";')
    os.environ["APT_CONFIG"] = str(folder / "apt.conf")
    rows, columns = np.mgrid[:96, :192]
    elevation = (100 + 60 * np.sin(rows / 9) * np.cos(columns / 11)).astype(np.uint8)
    tiles = {f"./srtm/{r:06}/{r:06}_{c:06}.jpg": jpeg(elevation[r * 48:r * 48 + 48, c * 48:c * 48 + 48])
             for r in range(2) for c in range(4)}
    package = debian(folder / "toy.deb", tiles | {"./usr/else": np.random.default_rng(0).bytes(100_000)})
    wheel(folder / "wheels", {"pkg/relief.jpg": jpeg(np.repeat(elevation[..., None], 3, axis=2))})
    return validate(Card, {
        "name": "toy", "title": "A toy", "size": "small", "licence": "CC0", "attribution": "the tests",
        "source": {"kind": "packages", "packages": [
            {"kind": "debian", "package": "diptych-toy", "version": "1:2.0-1", "url": server.url,
             "sha256": sha256(package)},
            {"kind": "pypi", "package": "diptych-toy-data"}]},
        "make": {"kind": "rasters", "input": "srtm", "input_tiles": [2, 4], "input_channels": 1,
                 "target": "pkg/relief.jpg", "tile": 48, "band": [90, 180]},
        "layout": {"kind": "paired", "card": "toy", "image_a": {"channels": 1}, "resize": None}}, "toy"), package


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APT_CONFIG", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "")  # so that what `toy` sets is taken back


def test_tiles_of_a_raster_are_put_together_where_they_belong(server: Any, tmp_path: Path) -> None:
    card, package = toy(server, tmp_path)
    archives = [package, tmp_path / "wheels" / "diptych_toy_data-1.0-py3-none-any.whl"]
    made = tmp_path / "made"
    card.make.build(archives, made, tmp_path / "scratch", 10**7, lambda line: None)
    for name in ("trainA", "testA", "largeA"):
        for path in (made / name).iterdir():
            a, b = np.asarray(Image.open(path)), np.asarray(Image.open(made / f"{name[:-1]}B" / path.name))
            assert a.ndim == 2 and b.ndim == 3
            assert np.abs(a.astype(int) - b[..., 1]).max() < 8, "the relief of the toy is its elevation"


def test_a_set_that_was_prepared_before_a_card_could_say_more_stays_valid(tmp_path: Path) -> None:
    """Its record names no tiles of the input."""
    from translate.cards.cards import _is_as_noted

    make = find_card("earth").make
    noted = make.model_dump(mode="json")
    del noted["input_tiles"], noted["input_channels"]
    assert _is_as_noted(make, noted) and not _is_as_noted(make, noted | {"tile": 301})
    assert not _is_as_noted(make, None)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shift"), [("terrain", (-0.2, -1.0)), ("night", (1.1, 0.5))])
def test_the_two_rasters_of_a_card_lie_on_each_other_as_the_card_says(name: str, shift: tuple[float, float],
                                                                      tmp_path: Path) -> None:
    """The real packages: the median over windows of the held-out band, (right, down) in px."""
    made = prepare(find_card(name), tmp_path)
    shifts = []
    for path in sorted((made / "testA").iterdir()):
        a, b = (to_tensor(np.asarray(Image.open(file).convert("L"))[..., None], ImageConfig(channels=1))
                for file in (path, made / "testB" / path.name))
        assert a.shape == b.shape == (1, 2000, 2000)
        windows = [np.s_[:, y:y + 500, x:x + 500] for y in range(0, 2000, 500) for x in range(0, 2000, 500)]
        found = [align(a[window], b[window]) for window in windows]
        shifts += [each.shift for each in found if each.shift is not None]
    assert len(shifts) >= 8 and np.median(shifts, axis=0) == pytest.approx(shift, abs=0.2), shifts
