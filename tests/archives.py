"""Archives as a data set arrives in: zips of the same bytes every time, and wheels."""

from __future__ import annotations

import zipfile
from pathlib import Path


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # dated 1980: the same bytes every time
    return path


def wheel(folder: Path, members: dict[str, bytes], name: str = "diptych_toy_data", version: str = "1.0") -> Path:
    about = f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    return zip_of(folder / f"{name}-{version}-py3-none-any.whl", {
        **members, f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": b""})
