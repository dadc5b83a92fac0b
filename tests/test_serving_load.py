"""Many clients at once: every answer is right, or says when to come again; memory and places stay bounded."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.conversions import noise, tiny_release
from tests.serving import Running, left_in, running
from translate.convert import convert
from translate.serve.limits import Limits
from translate.serve.models import Offer

NUM_IMAGES = 4
MEMORY_BYTES = 150_000_000  # that the server may grow by while it is asked: some outputs and what libraries keep


def images_and_outputs(folder: Path, side: int) -> list[tuple[bytes, bytes]]:
    """Images, and what `convert` makes of them."""
    for seed in range(NUM_IMAGES):
        (folder / "in").mkdir(exist_ok=True)
        file = io.BytesIO()
        Image.fromarray(noise(side, side + seed, seed=seed)).save(file, "PNG")
        (folder / "in" / f"{seed}.png").write_bytes(file.getvalue())
    convert(folder / "in", folder / "out", tiny_release(), workers=0)
    return [((folder / "in" / f"{seed}.png").read_bytes(), (folder / "out" / f"{seed}.png").read_bytes())
            for seed in range(NUM_IMAGES)]


def ask_for(seconds: float, server: Running, expected: list[tuple[bytes, bytes]], number: int,
            seen: list[tuple[int, float]], wrong: list[str]) -> None:
    """What one client does: image after image, at once again, or after a little where it is told to come later."""
    end, turn = time.monotonic() + seconds, number
    while time.monotonic() < end:
        image, output = expected[turn % NUM_IMAGES]
        began = time.monotonic()
        try:
            answer = server.translate(image, seconds=60)
        except OSError as error:
            wrong.append(f"client {number}: {type(error).__name__}: {error}")
            return
        seen.append((answer.status, time.monotonic() - began))
        if answer.status == 503 and int(answer.headers["retry-after"]) >= 1:
            time.sleep(0.05)
        elif answer.status != 200 or answer.content != output:
            wrong.append(f"client {number}: {answer.status}, {len(answer.content)} bytes")
        turn += 1


def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients: int, seconds: float, side: int) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    expected = images_and_outputs(tmp_path, side)
    seen: list[tuple[int, float]] = []
    wrong: list[str] = []
    limits = Limits(places=8)
    with running([Offer.of("tiny", tiny_release())], limits) as server:
        assert server.translate(expected[0][0]).content == expected[0][1]
        process = psutil.Process(os.getpid())
        before = peak = process.memory_info().rss
        threads = [threading.Thread(target=ask_for, args=(seconds, server, expected, number, seen, wrong))
                   for number in range(clients)]
        for thread in threads:
            thread.start()
        most = 0
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, process.memory_info().rss)
            most = max(most, server.ask("GET", "/health").json["taken"])
            time.sleep(0.1)
        assert server.translate(expected[0][0]).content == expected[0][1]
        time.sleep(0.05)
        assert left_in(tmp_path / "temporary") == []

    served = sorted(second for status, second in seen if status == 200)
    p50, p95 = np.percentile(served, (50, 95))
    sys.stdout.write(f"{clients} clients, {seconds:g} s, {side} px: {len(served)} translated, "
                     f"{len(seen) - len(served)} told to come again; p50 {p50:.2f} s, p95 {p95:.2f} s, at most "
                     f"{served[-1]:.2f} s; memory grew by {(peak - before) / 1e6:.0f} MB\n")
    assert not wrong and {status for status, _ in seen} <= {200, 503}
    assert len(served) > clients / 4 and most <= limits.places
    assert peak - before < MEMORY_BYTES


def test_a_few_clients_at_once_are_all_served_or_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                    ) -> None:
    load(tmp_path, monkeypatch, clients=12, seconds=0.8, side=32)


@pytest.mark.slow
def test_32_clients_for_a_minute_are_all_served_or_told_to_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                      ) -> None:
    load(tmp_path, monkeypatch, clients=32, seconds=60, side=256)
