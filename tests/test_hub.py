"""Releases on the Hub: what is published is what others convert with, whatever happens on the way.

The Hub is one on loopback (tests/hub.py), and the library that speaks to it is the real one.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download
from PIL import Image

from tests.commands import call
from tests.conftest import waves
from tests.hub import TOKEN, Hub, Repository
from tests.runs import cyclegan_recipe
from translate.convert import convert
from translate.errors import CheckpointError, NetworkError, TranslateError, UsageError
from translate.publish.card import END, read_front_matter
from translate.publish.publishing import publish
from translate.runs.recipe_paths import absolute, without_places
from translate.runs.release import load_release
from translate.training.starting import read_source

RELEASE = Path(__file__).parent / "data" / "run-b2bf1ce" / "release"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that all calls of the test go to, and an empty cache."""
    from huggingface_hub import constants

    server = Hub()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.stop()


def put(hub: Hub, name: str = "org/toy", folder: Path = RELEASE) -> Repository:
    """A release as it lies there: beside files that are never downloaded."""
    found = hub.repositories.setdefault(name, Repository())
    found.commit({path.name: path.read_bytes() for path in folder.iterdir()} | {".gitattributes": b"", "x.jpg": b"1"})
    return found


def test_a_release_from_the_hub_is_the_release(hub: Hub, tmp_path: Path) -> None:
    """The same fingerprint, so a ledger that another machine began with the folder goes on."""
    put(hub)
    here, there = load_release(RELEASE), load_release(Path("hf:org/toy"))
    assert there.fingerprint == here.fingerprint
    Image.fromarray(waves(1, (24, 32))).save(tmp_path / "x.png")
    summary = convert(tmp_path / "x.png", tmp_path / "out", there, precision="fp32")
    assert not summary.failed, summary.failed
    summary = convert(tmp_path / "x.png", tmp_path / "out", here, precision="fp32")
    assert (summary.already, summary.converted) == (1, 0)


def test_a_card_that_was_edited_on_the_web_breaks_nothing(hub: Hub) -> None:
    """The card was in the manifest: correcting a word of it made the release a damaged one."""
    repository = put(hub)
    repository.commit({"README.md": b"# Mine\n", ".gitattributes": b"*.safetensors filter=lfs\n", "notes.json": b"{}"})
    release = load_release(Path("hf:org/toy"))
    assert release.weights is not None and (release.weights / "README.md").read_bytes() == b"# Mine\n"


def test_a_revision_is_what_it_was(hub: Hub) -> None:
    repository = put(hub)
    first, before = repository.newest, load_release(Path("hf:org/toy"))
    other = RELEASE / "generator_ba.safetensors"
    repository.commit({"generator_ab.safetensors": other.read_bytes()})
    with pytest.raises(CheckpointError, match="checksum"):
        load_release(Path("hf:org/toy"))
    assert load_release(Path(f"hf:org/toy@{first}")).fingerprint == before.fingerprint


def test_only_what_the_manifest_names_is_downloaded(hub: Hub) -> None:
    """A repository may hold anything besides, gigabytes of it."""
    put(hub).commit({"model.ckpt": b"0" * 99, "other.safetensors": b"0" * 99, "deep/x.json": b"{}"})
    load_release(Path("hf:org/toy"))
    assert not [line for line in hub.requests if "ckpt" in line or "other" in line or "deep" in line]
    assert [line for line in hub.requests if line.endswith("generator_ab.safetensors") and line.startswith("GET")]


@pytest.mark.parametrize(("name", "change", "error", "match"), [
    ("hf:org/none", lambda hub: None, UsageError, "no such repository, or not for you.*HF_TOKEN"),
    ("hf:org/toy@v9", lambda hub: None, UsageError, "no such revision"),
    ("hf:org/empty", lambda hub: hub.repositories.update({"org/empty": Repository()}), CheckpointError,
     "holds no release of Diptych.*MANIFEST.json"),
    ("hf:org/toy", lambda hub: hub.repositories["org/toy"].commit({"MANIFEST.json": b'{"../x.json": {"size": 1}}'}),
     UsageError, "MANIFEST.json"),
    ("hf:org/toy", lambda hub: hub.repositories["org/toy"].commit(
        {"MANIFEST.json": b'{"../x.json": {"size": 1, "sha256": "' + b"0" * 64 + b'"}}'}), CheckpointError,
     "names files in other folders"),
    ("hf:org/toy", Hub.stop, NetworkError, "the server cannot be reached"),
    ("hf:org/my--toy", lambda hub: None, UsageError, "no name that the Hub takes"),
    ("hf:toy", lambda hub: None, UsageError, "no address on the Hub.*hf:org/name"),
    ("hf:org/../toy", lambda hub: None, UsageError, "no address on the Hub"),
    ("hf:org/toy/sub", lambda hub: None, UsageError, "no address on the Hub")],
    ids=["none", "revision", "empty", "manifest", "outside", "gone", "dashes", "no name", "up", "deep"])
def test_what_cannot_be_fetched_is_said(name: str, change: Callable[[Hub], object], error: type[TranslateError],
                                        match: str, hub: Hub) -> None:
    put(hub)
    change(hub)
    with pytest.raises(error, match=match):
        load_release(Path(name))


def test_a_private_release_needs_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub).private = True
    load_release(Path("hf:org/toy"))
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UsageError, match="HF_TOKEN"):
        load_release(Path("hf:org/toy"))


def test_a_release_that_is_here_serves_when_the_server_is_gone(hub: Hub, tmp_path: Path, said: io.StringIO,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """And whoever uses it is told that it may be an old one."""
    put(hub)
    Image.fromarray(waves(1, (24, 32))).save(tmp_path / "x.png")
    words = ("convert", tmp_path / "x.png", tmp_path / "out", "--model", "hf:org/toy", "--device", "cpu")
    assert call(monkeypatch, *words) == 0
    assert "fetched: hf:org/toy" in said.getvalue()
    hub.stop()
    assert call(monkeypatch, *words) == 0
    assert "the server cannot be reached" in said.getvalue() and "downloaded before is used" in said.getvalue()
    with pytest.warns(UserWarning, match="downloaded before is used"):
        load_release(Path("hf:org/toy"))


@pytest.mark.slow  # the Hub's library tries again for some seconds
def test_a_download_that_was_cut_goes_on(hub: Hub) -> None:
    put(hub)
    hub.cut_after = 1000
    with pytest.raises(NetworkError):
        load_release(Path("hf:org/toy"))
    hub.cut_after = None
    assert load_release(Path("hf:org/toy")).name == "toy"


def test_an_interrupted_download_does_not_hide_the_copy_before(hub: Hub) -> None:
    """The newest manifest has arrived, and the weights that it names have not."""
    repository = put(hub)
    before = load_release(Path("hf:org/toy"))
    weights = (RELEASE / "generator_ba.safetensors").read_bytes()
    manifest = json.loads((RELEASE / "MANIFEST.json").read_text())
    manifest["generator_ab.safetensors"] = manifest["generator_ba.safetensors"]
    repository.commit({"generator_ab.safetensors": weights, "MANIFEST.json": json.dumps(manifest).encode()})
    hf_hub_download("org/toy", "MANIFEST.json")
    hub.stop()
    with pytest.warns(UserWarning, match="downloaded before is used"):
        assert load_release(Path("hf:org/toy")).fingerprint == before.fingerprint


def test_a_training_that_begins_with_a_release_of_the_hub_says_so(hub: Hub, shared_pairs: Path) -> None:
    """Its recipe names it as it was named: where it was downloaded to is nobody else's concern."""
    put(hub)
    recipe = cyclegan_recipe(shared_pairs).model_copy(update={"start": Path("hf:org/toy")})
    source = read_source(recipe)
    assert source is not None and source.what.startswith("hf:org/toy (SHA-256") and len(source.states) == 2
    assert absolute(recipe).start == without_places(recipe).start == Path("hf:org/toy")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with its release, held-out pictures and scores."""
    folder = Path(shutil.copytree(RELEASE.parent / "run", tmp_path / "run"))
    shutil.copytree(RELEASE, folder / "release")
    return folder


def test_what_is_published_is_what_others_convert_with(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch,
                                                       said: io.StringIO) -> None:
    assert call(monkeypatch, "publish", run, "org/toy", "--licence", "cc-by-4.0") == 0
    assert "published: http://127.0.0.1" in said.getvalue()
    assert load_release(Path("hf:org/toy")).fingerprint == load_release(RELEASE).fingerprint
    assert load_release(Path("hf:org/toy"), "ba").fingerprint == load_release(RELEASE, "ba").fingerprint

    repository = hub.repositories["org/toy"]
    held = repository.commits[repository.newest]
    assert held.keys() == {path.name for path in RELEASE.iterdir()} | {"example.jpg"}
    assert Image.open(io.BytesIO(held["example.jpg"])).size == (3 * 80, 72)
    fields, text = read_front_matter(held["README.md"].decode())
    assert fields == {"library_name": "diptych", "tags": ["image-to-image", "cyclegan"], "license": "cc-by-4.0",
                      "pipeline_tag": "image-to-image"}
    for expected in ("# toy", "![input, output, truth](example.jpg)", "--model hf:org/toy --direction ba",
                     "SSIM | ↑ | ", "95 % interval", "Images of its maker", "Do not cut images into tiles"):
        assert expected in text


def test_publishing_again_keeps_what_people_have_written(hub: Hub, run: Path) -> None:
    """On the web, around the part between the marks, and in the fields above."""
    publish(run, "org/toy")
    repository = hub.repositories["org/toy"]
    card = repository.commits[repository.newest]["README.md"].decode()
    card = card.replace("# toy", "# Ours").replace("---\n", "---\nlanguage: en\n", 1) + "\nThanks to everybody.\n"
    repository.commit({"README.md": card.replace("Do not cut", "Do cut").encode()})
    publish(run, "org/toy", licence="mit")
    again = repository.commits[repository.newest]["README.md"].decode()
    assert "# Ours" in again and again.endswith("\nThanks to everybody.\n") and "Do not cut" in again
    assert read_front_matter(again)[0] == read_front_matter(card)[0] | {"license": "mit"}


def test_publishing_again_takes_back_what_is_not_sent_any_more(hub: Hub, run: Path) -> None:
    """A picture that somebody wants off the card, and weights that would be taken for a part of the release."""
    publish(run, "org/toy")
    repository = hub.repositories["org/toy"]
    repository.commit({"ema_generator_ab.safetensors": b"older", "notes/x.json": b"{}"})
    publish(run, "org/toy", with_example=False)
    held = repository.commits[repository.newest]
    assert held.keys() == {path.name for path in RELEASE.iterdir()} | {"notes/x.json"}


def test_a_card_that_has_lost_a_mark_is_not_overwritten(hub: Hub, run: Path) -> None:
    publish(run, "org/toy")
    repository = hub.repositories["org/toy"]
    card = repository.commits[repository.newest]["README.md"].decode()
    repository.commit({"README.md": (card.replace(END, "") + "Ours.").encode()})
    with pytest.raises(UsageError, match="not the one that ends this part"):
        publish(run, "org/toy")


def test_a_dry_run_sends_nothing(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch, said: io.StringIO) -> None:
    assert call(monkeypatch, "publish", run / "release", "org/toy", "--dry-run", "--no-example") == 0
    assert not hub.requests and not hub.repositories
    assert "would send: generator_ab.safetensors" in said.getvalue() and "## Limits" in said.getvalue()
    assert "the card names no licence" in said.getvalue() and "example.jpg" not in said.getvalue()


@pytest.mark.parametrize(("name", "change", "error", "match"), [
    ("org/toy", lambda run, hub, patch: patch.setenv("HF_TOKEN", "hf_wrong"), UsageError, "HF_TOKEN"),
    ("org/toy", lambda run, hub, patch: hub.stop(), NetworkError, "the server cannot be reached"),
    ("toy", lambda run, hub, patch: None, UsageError, "no name of a repository"),
    ("org/toy", lambda run, hub, patch: shutil.rmtree(run / "release"), UsageError, "no release yet.*--resume"),
    ("org/toy", lambda run, hub, patch: shutil.rmtree(run), UsageError, "no such folder"),
    ("org/toy", lambda run, hub, patch: (run / "release/generator_ab.safetensors").write_bytes(b""), CheckpointError,
     "damaged")], ids=["token", "gone", "name", "no release", "no folder", "damaged"])
def test_what_cannot_be_published_is_said(name: str, change: Callable[[Path, Hub, pytest.MonkeyPatch], object],
                                          error: type[TranslateError], match: str, hub: Hub, run: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    change(run, hub, monkeypatch)
    with pytest.raises(error, match=match):
        publish(run, name)
    assert not hub.repositories
