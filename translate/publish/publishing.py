"""Publish a release: its files, a card, and a picture become a commit in a repository of the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from translate.errors import CheckpointError, UsageError
from translate.foreign import read_json
from translate.missing import no_release
from translate.places import RECIPE_FILE
from translate.publish.card import EXAMPLE, card_of, example, score_table
from translate.report.run_contents import read_run
from translate.report.showcase import read_shown
from translate.runs.folder import load_saved
from translate.runs.hub import CARD, Address, as_our_errors, file_of, program
from translate.runs.manifest import MANIFEST, READ, verify
from translate.runs.release import RELEASE, About


@dataclass(frozen=True)
class Publication:
    """What a repository is to hold.

    files    of the release, in their order
    texts    {name: content} of what is made for it: the card, the picture
    notes    what a person should know, in words
    address  of the commit; empty where nothing was sent
    """

    repository: str
    files: list[Path]
    texts: dict[str, bytes]
    notes: list[str]
    address: str = ""

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files) + sum(map(len, self.texts.values()))


def publish(model: Path, repository: str, *, private: bool = False, licence: str | None = None,
            with_example: bool = True, dry_run: bool = False) -> Publication:
    """Put a release into a repository of the Hub, which is made where there is none.

    model         a release folder, or the run that it lies in; a run also knows scores and pictures
    repository    org/name
    private       a repository that is made here shows itself to its owner alone
    licence       of the weights, as the Hub names licences: apache-2.0, cc-by-4.0
    with_example  show a held-out image of the run
    dry_run       send nothing, and ask nobody

    Raises `UsageError` for what is no release or no name, or a token that the Hub does not accept, `CheckpointError`
    where the release is damaged, `NetworkError` where the server cannot be reached.
    """
    # The release: whole, and beside it the run that knows how good it is
    if re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII) is None:
        raise UsageError("is no name of a repository", repository, "write org/name")
    folder = release_in(model)
    if (fault := verify(folder)) is not None:
        raise CheckpointError(f"this release is damaged: {fault}", folder)
    files = sorted(path for path in folder.iterdir() if path.suffix in READ)

    # What is made for it. A card that was edited on the Hub goes on there
    recipe = load_saved(folder)
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else f"# {recipe.name}\n"
    text = (card if dry_run else _card_on_the_hub(repository)) or card
    scores, picture, notes = _known_of_the_run(folder)
    picture = picture if with_example else None
    text = card_of(text, recipe, read_json(folder / RELEASE, About)["directions"], repository, scores,
                   picture is not None, licence)
    if "\nlicense:" not in text.partition("\n---\n")[0]:
        notes.append("the card names no licence, and without one nobody may use the model: add --licence, such as "
                     "apache-2.0, as the licence of your data allows")
    made = Publication(repository, files, {CARD: text.encode()} | ({EXAMPLE: picture} if picture else {}), notes)
    return made if dry_run else _sent(made, private)


def release_in(model: Path) -> Path:
    """Return the release that is meant: the folder itself, or that in a run. Raises `UsageError` for anything else."""
    if not model.is_dir():
        raise no_release(model)
    if (model / MANIFEST).is_file() and (model / RELEASE).is_file():
        return model
    if (model / "release" / RELEASE).is_file():
        return model / "release"
    if (model / RECIPE_FILE).is_file():
        raise UsageError("this run has no release yet: it is written when the training ends", model,
                         f"translate train --resume --run {model}")
    raise UsageError("neither a run nor a release", model)


def _known_of_the_run(release: Path) -> tuple[list[str], bytes | None, list[str]]:
    """Return the score table, the example and what is missing, of the run that a release lies in."""
    run = release.parent
    if not (run / RECIPE_FILE).is_file():
        return [], None, ["the release does not lie in its run: the card has no scores and no picture"]
    scores = score_table(read_run(run))
    shown, _, _ = read_shown(run)
    notes = [] if scores else [f"the run has no scores: translate evaluate {run}"]
    return scores, example(shown[0]) if shown else None, notes if shown else [*notes, "the run has no held-out "
                                                                              "pictures"]


def _card_on_the_hub(repository: str) -> str | None:
    """Return the text of the card that is there; None where there is none."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    with as_our_errors(Address(repository), "looking for its card"):
        try:
            return file_of(Address(repository), CARD).read_text(encoding="utf-8")
        except LocalEntryNotFoundError:  # an `EntryNotFoundError` as well, and says that the server is gone
            raise
        except (EntryNotFoundError, RepositoryNotFoundError):
            return None


def _sent(made: Publication, private: bool) -> Publication:
    """Make the repository where there is none, and commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api: Any = HfApi(**program())
    contents: dict[str, Any] = {path.name: path for path in made.files} | made.texts
    with as_our_errors(Address(made.repository), "publishing"):
        api.create_repo(made.repository, private=private, exist_ok=True)
        # What an earlier release had there and this one has not would be taken for a part of it
        left = [name for name in api.list_repo_files(made.repository) if name not in contents
                and (name == EXAMPLE or (name.endswith(READ) and "/" not in name))]
        commit = api.create_commit(made.repository, [
            *(CommitOperationAdd(name, content) for name, content in contents.items()),
            *(CommitOperationDelete(name) for name in left)], commit_message="Release")
    return replace(made, address=str(commit.commit_url))
