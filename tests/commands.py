"""A command, run in this process; what it prints is the fixture `said` of conftest.py."""

from __future__ import annotations

import pytest

from translate import cli


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run a command in this process; its exit code."""
    monkeypatch.setattr("sys.argv", ["translate", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)
