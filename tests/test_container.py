"""The Dockerfile: each instruction is one that exists, what it copies and calls is there, and nobody runs as root.

Nothing is built here: that needs a daemon and the registries that it names.
"""

from __future__ import annotations

import fnmatch
import inspect
import json
import re
import shlex
import tomllib
from pathlib import Path

from translate.cli.app import app

ROOT = Path(__file__).parent.parent
# https://docs.docker.com/reference/dockerfile/
INSTRUCTIONS = {"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "ONBUILD",
                "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, words), lines that go on joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def test_every_instruction_is_one_and_the_order_is_right() -> None:
    found = instructions()
    names = [name for name, _ in found]
    assert set(names) <= INSTRUCTIONS and names[0] == "FROM"
    assert names.index("USER") > max(number for number, name in enumerate(names) if name in ("RUN", "COPY"))
    base = dict(found)["FROM"]
    assert base.startswith("python:") and base.split(":")[1].startswith("3.11")
    for name, words in found:
        if name in ("ENTRYPOINT", "CMD") or (name == "HEALTHCHECK" and "CMD" in words):
            assert all(isinstance(each, str) for each in json.loads(words[words.index("["):])), words


def test_it_runs_as_nobody_special_and_holds_no_secret() -> None:
    found = instructions()
    user = dict(found)["USER"].strip()
    assert user not in ("root", "0") and any(name == "RUN" and "useradd" in words and words.endswith(user)
                                             for name, words in found)
    assert not [words for name, words in found if name in ("ENV", "ARG") and re.search("TOKEN|KEY|SECRET", words)]


def test_what_it_copies_installs_and_calls_is_there() -> None:
    """A file, an extra or an option that is renamed would break it where no test builds it."""
    found = instructions()
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    for source in (source for name, words in found if name == "COPY" for source in words.split()[:-1]):
        assert (ROOT / source).exists() and f"!{source}" in ignored, source
    assert not [each for each in ignored if each.startswith("!") and not (ROOT / each[1:]).exists()]
    assert not any(fnmatch.fnmatch(name, each) for name in ("translate", "recipes") for each in ignored[1:])

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = {extra for name, words in found if name == "RUN" for extra in re.findall(r"'\.\[(.+)\]'", words)}
    assert "serve" in extras.split(",") and set(extras.split(",")) <= project["optional-dependencies"].keys()
    needed = {ROOT / path for path in (project["readme"], *project["license-files"])}
    assert all(any(path.name in words for name, words in found if name == "COPY") for path in needed)

    # The command that is started, its options, and the port that is asked for its health.
    command, verb, *words = json.loads(dict(found)["ENTRYPOINT"])
    assert command in project["scripts"]
    (called,) = (each.callback for each in app.registered_commands if each.callback and each.callback.__name__ == verb)
    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(called).parameters}
    assert {word for word in words if word.startswith("--")} <= known
    port = words[words.index("--port") + 1]
    assert dict(found)["EXPOSE"].strip() == port and f":{port}/health" in dict(found)["HEALTHCHECK"]


def test_the_documented_commands_build_what_is_there() -> None:
    arguments = {words.split("=")[0] for name, words in instructions() if name == "ARG"}
    page = (ROOT / "docs" / "serving.md").read_text() + (ROOT / "Dockerfile").read_text()
    builds = [shlex.split(line) for line in re.findall(r"docker build .+?\.(?=\n|$)", page)]
    assert {word.split("=")[1] for words in builds for word in words if word.startswith("TORCH=")} >= {"cpu"}
    for words in builds:
        given = [words[number + 1].split("=")[0] for number, word in enumerate(words) if word == "--build-arg"]
        assert given and set(given) <= arguments and words[-1] == "."
