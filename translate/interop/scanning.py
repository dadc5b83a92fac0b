"""What a file is, and what would run if it were unpickled: found out without running it.

`torch.save` writes a zip file (since torch 1.6) or five pickles and the numbers behind them (before). A pickle is a
program: it may name any function of any library and call it. Its instructions are listed here and never followed.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from pathlib import Path
from typing import BinaryIO

from translate.errors import CheckpointError

MAX_PROGRAM_BYTES = 32 * 2**20  # of a pickle; those of the largest networks take one or two megabytes
LEGACY_PICKLES = 5  # magic number, protocol, system, the object itself, the keys of its storages
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
HARMLESS = ("torch._utils", "torch.storage", "torch.nn.parameter")  # modules that saved tensors name, besides torch
NOT_A_CHECKPOINT = {
    b"<": "a web page or another text, no checkpoint: the download went wrong",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull` where it is from",
    b"\x1f\x8b": "a gzip archive; unpack it first", b"\x89PNG": "an image", b"\xff\xd8": "an image",
    b"\x89HDF": "an HDF5 file (Keras, TensorFlow)"}
ADVICE_STATE_DICT = "load it where its code is, and save `network.state_dict()` alone"


def scan(path: Path) -> str:
    """Return the format of a checkpoint: `safetensors`, `zip` or `legacy`.

    Raises `CheckpointError` for what is none, and for one that would run code or grow beyond its own size.
    """
    try:
        with path.open("rb") as file:
            start = file.read(264)
            if path.suffix == ".safetensors":
                return "safetensors"
            if start.startswith(b"PK\x03\x04"):
                _scan_zip(file, path)
                return "zip"
            if start.startswith(b"\x80"):
                _scan_legacy(file, path)
                return "legacy"
    except OSError as error:
        raise CheckpointError(error.strerror or str(error), path) from None
    if start[257:262] == b"ustar":
        raise CheckpointError("a tar file, as torch wrote before 0.1.10", path, "load and save it with torch 1 first")
    if start[8:9] == b"{":
        raise CheckpointError("looks like a safetensors file of another name", path, "call it .safetensors")
    known = (words for beginning, words in NOT_A_CHECKPOINT.items() if start.lstrip().startswith(beginning))
    raise CheckpointError(next(known, "no file that torch.save wrote" if start else "is empty"), path)


def _scan_zip(file: BinaryIO, path: Path) -> None:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise CheckpointError("is cut off or damaged: its end, where a zip file says what it holds, is missing",
                              path) from None

    # What torch writes is stored as it is: nothing in it grows when it is read.
    size = path.stat().st_size
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(
            entry.file_size for entry in entries) > size:
        raise CheckpointError(f"holds compressed files, {sum(entry.file_size for entry in entries):,} bytes in "
                              f"{size:,}: torch.save compresses nothing", path)

    # One pickle says what is in it; a program has others.
    pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
    if any(entry.filename.rpartition("/")[2] == "constants.pkl" for entry in entries):
        raise CheckpointError("a TorchScript program, not weights", path, ADVICE_STATE_DICT)
    if len(pickles) != 1:
        raise CheckpointError("a zip file that torch.save has not written", path)
    if pickles[0].file_size > MAX_PROGRAM_BYTES:
        raise CheckpointError(f"its data.pkl has {pickles[0].file_size:,} bytes, more than tensors need", path)
    try:
        program = archive.read(pickles[0])
    except (zipfile.BadZipFile, EOFError, RuntimeError):  # RuntimeError: encrypted
        raise CheckpointError("is damaged: its data.pkl does not have the checksum it was written with", path) from None
    _refuse_code(_names_in(io.BytesIO(program), path), path)


def _scan_legacy(file: BinaryIO, path: Path) -> None:
    file.seek(0)
    head = io.BytesIO(file.read(MAX_PROGRAM_BYTES))
    first = _instructions(head, path)
    if LEGACY_MAGIC not in [argument for _, argument in first]:
        head.seek(0)
        _refuse_code(_names_in(head, path), path)
        raise CheckpointError("a pickle that torch.save has not written", path, ADVICE_STATE_DICT)
    for _ in range(LEGACY_PICKLES - 1):
        _refuse_code(_names_in(head, path), path)


def _instructions(file: BinaryIO, path: Path) -> list[tuple[str, object]]:
    """Return the instructions of the pickle that begins here, (name, argument)."""
    try:
        return [(code.name, argument) for code, argument, _ in pickletools.genops(file)]
    except (ValueError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"is cut off or damaged: {str(error).splitlines()[0]}", path) from None


def _names_in(file: BinaryIO, path: Path) -> list[str]:
    """Return what the pickle that begins here would import, as module.name."""
    names, texts = [], ["?", "?"]
    for code, argument in _instructions(file, path):
        if isinstance(argument, str):
            texts = [texts[-1], argument]
        if code in ("GLOBAL", "INST"):
            names.append(str(argument).replace(" ", "."))
        elif code == "STACK_GLOBAL":
            names.append(".".join(texts))
    return names


def _refuse_code(names: list[str], path: Path) -> None:
    """Raise for the first name that is more than saving tensors needs."""
    for name in names:
        module, _, what = name.rpartition(".")
        if module in HARMLESS or name == "collections.OrderedDict" or (module == "torch" and what[:1] != "_"):
            continue
        if name == "argparse.Namespace":
            raise CheckpointError("holds a program's options (argparse.Namespace) beside its weights", path,
                                  ADVICE_STATE_DICT)
        if module.startswith("numpy"):
            raise CheckpointError(f"holds arrays of numpy ({name}), not tensors alone", path, ADVICE_STATE_DICT)
        does = "is a pickled object" if what[:1].isupper() else "would run a function"
        raise CheckpointError(f"no set of tensors alone: in it {does}, {name}; nothing of it has run", path,
                              ADVICE_STATE_DICT)
