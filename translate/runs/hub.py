"""Releases on the Hugging Face Hub: `hf:org/name`, or `hf:org/name@revision`, in the place of a folder.

Of a repository only what its manifest names is downloaded, into the Hub library's own cache, which keeps it for the
next time and for when the server cannot be reached. What arrives is a release like any other: verified, and looked at
as shapes before anything is built. Tokens, mirrors and proxies are set as for every program that uses the Hub
(`HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME`).
"""

from __future__ import annotations

import glob
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from translate.errors import CheckpointError, NetworkError, UsageError, visible
from translate.foreign import read_json
from translate.runs.manifest import MANIFEST, READ, Sealed, verify

PREFIX = "hf:"
CARD = "README.md"  # of a repository, which the Hub shows and people edit there
SECONDS_TO_ANSWER = 10


@dataclass(frozen=True)
class Address:
    """A repository of the Hub, and which state of it; None: the newest."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return PREFIX + self.repository + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True)
class Fetched:
    """A release from the Hub that lies here now; `note` says in words where it may be an old one, else nothing."""

    folder: Path
    note: str = ""


def is_address(path: Path | str) -> bool:
    """Return whether a model is named by its address on the Hub, and not by a folder."""
    return str(path).startswith(PREFIX)


def address(text: Path | str) -> Address:
    """Read `hf:org/name[@revision]`. Raises `UsageError` for anything else."""
    read = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", str(text), re.ASCII)
    if read is None or ".." in str(text):
        raise UsageError("is no address on the Hub", str(text), "write hf:org/name, or hf:org/name@revision")
    return Address(read[1], read[2])


def here(path: Path) -> Path:
    """Return the folder of a model: `path` itself, or that of a release which is fetched from the Hub.

    Warns where it may be an old one. Raises as `fetch` does.
    """
    if not is_address(path):
        return path
    fetched = fetch(address(path))
    if fetched.note:
        warnings.warn(fetched.note, stacklevel=2)
    return fetched.folder


def fetch(where: Address) -> Fetched:
    """Download a release, as far as it is not here yet.

    Raises `UsageError` where there is no such repository or revision, or nobody may read it without a token,
    `CheckpointError` where it holds no release, `NetworkError` where the server cannot be reached and no copy is here.
    """
    from huggingface_hub import snapshot_download

    try:
        with as_our_errors(where):
            manifest = file_of(where, MANIFEST)
            wanted = [glob.escape(each) for each in names_in(manifest, where)]

            # All of one commit, also where somebody pushes another one meanwhile
            commit = manifest.parent.name
            return Fetched(Path(snapshot_download(where.repository, revision=commit, allow_patterns=wanted,
                                                  **program())))
    except NetworkError as error:
        kept = _kept(where)
        if kept is None:
            raise
        return Fetched(kept, f"{where}: {error.what}; the copy that was downloaded before is used")


def file_of(where: Address, name: str) -> Path:
    """Download one file of a repository. Raises what the Hub's library raises (see `as_our_errors`)."""
    from huggingface_hub import HfApi, hf_hub_download

    # Asked first whether it is there and answers: the download itself tries again for half a minute
    HfApi(**program()).repo_info(where.repository, revision=where.revision, timeout=SECONDS_TO_ANSWER)
    return Path(hf_hub_download(where.repository, name, revision=where.revision, **program()))


def program() -> dict[str, Any]:
    """Return how this program names itself to the Hub."""
    return {"library_name": "diptych", "library_version": version("diptych")}


def names_in(manifest: Path, where: Address) -> list[str]:
    """Return the files of a release that are worth downloading: what its manifest names, itself, and the card."""
    sealed = read_json(manifest, dict[str, Sealed])
    names = [name for name in sealed if name.endswith(READ)]
    if any(Path(name).name != name for name in names):
        raise CheckpointError(f"its {MANIFEST} names files in other folders", str(where))
    return [*names, MANIFEST, CARD]


def _kept(where: Address) -> Path | None:
    """Return the folder of a whole release that was downloaded before; None where there is none.

    It is that of the commit which the revision was at, or, where none is named, the newest that is whole: a download
    that was interrupted does not hide the one before.
    """
    from huggingface_hub import try_to_load_from_cache

    manifest = try_to_load_from_cache(where.repository, MANIFEST, revision=where.revision)
    if not isinstance(manifest, str):
        return None
    newest = Path(manifest).parent
    others = [] if where.revision else sorted(newest.parent.iterdir(), key=lambda each: -each.stat().st_mtime)
    return next((folder for folder in [newest, *others] if verify(folder) is None), None)


@contextmanager
def as_our_errors(where: Address, doing: str = "downloading") -> Iterator[None]:
    """Turn what the Hub's library raises in the block into our errors."""
    from huggingface_hub import errors

    name = str(where)
    token = "set HF_TOKEN to a token that may, or call `hf auth login`"
    try:
        yield
    except errors.HFValidationError as error:
        raise UsageError("is no name that the Hub takes: " + visible(str(error).splitlines()[0]), name) from None
    except errors.GatedRepoError:
        raise UsageError("its owner lets only some people read it", name, f"ask for access on its page, and {token}"
                         ) from None
    except errors.RepositoryNotFoundError:
        raise UsageError("there is no such repository, or not for you", name, f"check the name; if it is private, "
                         f"{token}") from None
    except errors.RevisionNotFoundError:
        raise UsageError("its repository has no such revision", name, "name a branch, a tag or a commit") from None
    except errors.RemoteEntryNotFoundError:
        raise CheckpointError(f"holds no release of Diptych: it has no {MANIFEST}", name,
                              "`translate publish` makes such repositories") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise UsageError(f"the Hub does not accept the token ({status})", name, token) from None
        raise NetworkError(f"{doing}: the server answers {status}", name, "try again later") from None
    except (errors.LocalEntryNotFoundError, errors.HTTPError, ConnectionError) as error:
        reason = visible(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise NetworkError(f"{doing}: the server cannot be reached ({reason})", name, "try again when there is a "
                           "network; what is here already is not downloaded again") from None
