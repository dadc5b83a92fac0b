"""Folders that are whole or refused: tensors in safetensors files, and a manifest that knows every file.

`MANIFEST.json` holds the size and the SHA-256 of each file, {name: {size, sha256}}. It is written last, so a folder
that was not finished has none. Nothing in such a folder can run code: it holds no pickle.
"""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from translate import files
from translate.errors import CheckpointError, DocumentError, visible
from translate.foreign import SHA256, Count, Shape, read_json

MANIFEST = "MANIFEST.json"
# What is read from such a folder, and must therefore be as its manifest says. The card for people may be edited.
READ = (".safetensors", ".json", ".yaml")


class Sealed(Shape):
    """What a manifest says of a file."""

    size: Count
    sha256: SHA256


def seal(folder: Path) -> None:
    """Write the manifest of all that is read from `folder`; from then on `verify` accepts it."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in READ and path.name != MANIFEST)
    files.write_json(folder / MANIFEST, {name: {"size": (folder / name).stat().st_size,
                                                "sha256": files.sha256(folder / name)} for name in names})


def verify(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint or a release; None when its manifest matches every file that is read."""
    try:
        if not (folder / MANIFEST).exists():
            return f"there is no {MANIFEST}: it was not finished"
        manifest = read_json(folder / MANIFEST, dict[str, Sealed])
        for path in sorted(folder.iterdir()):
            if path.suffix in READ and path.name not in manifest and path.name != MANIFEST:
                return f"{visible(path.name)} is not in the {MANIFEST}"
        if not any(name.endswith(READ) for name in manifest):
            return f"{MANIFEST} names no file of it"
        for name, entry in manifest.items():
            file = folder / name
            if Path(name).name != name:
                return f"{name!r} in the manifest is not the name of a file in this folder"
            if not name.endswith(READ):
                continue
            if not file.is_file():
                return f"{visible(name)} is missing"
            if file.stat().st_size != entry["size"]:
                return f"{visible(name)} has {file.stat().st_size:,} bytes, not {entry['size']:,}"
            if files.sha256(file) != entry["sha256"]:
                return f"{visible(name)} does not have the checksum it was written with"
    except DocumentError as error:
        return f"{MANIFEST} cannot be read: {error.what}"
    except OSError as error:
        return f"cannot be read: {error}"
    return None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file. Raises `CheckpointError` naming the file."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(str(error), path) from None


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write `tensors` as a safetensors file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    files.write_bytes(path, safetensors.torch.save(plain))


def read_network(folder: Path, name: str, network: nn.Module) -> None:
    """Load `<name>.safetensors` into `network`. Raises `CheckpointError` where these are another network's weights."""
    file = folder / f"{name}.safetensors"
    try:
        network.load_state_dict(read_tensors(file))
    except RuntimeError as error:
        raise CheckpointError(f"not the network of this recipe: {error}", file) from None


def write_network(folder: Path, name: str, network: nn.Module) -> None:
    """Write a network's weights and buffers as `<name>.safetensors`."""
    write_tensors(folder / f"{name}.safetensors", dict(network.state_dict()))
