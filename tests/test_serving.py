"""The server gives what `translate convert` writes, to whom it may, within limits, and nothing of it stays."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import pickle
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import psutil
import pytest
from PIL import Image
from torch import Tensor

from tests.bombs import endless_strip, false_header, huge_tile, lying_jpeg_tile
from tests.commands import Command, call
from tests.conversions import Identity, last_rows, noise, release_of, tiny_release
from tests.serving import BOUNDARY, Answer, Running, form, left_in, new_ticket, running
from translate import tiling
from translate.convert import convert
from translate.errors import UsageError
from translate.images.decoding import decode
from translate.images.writing import write_image
from translate.runs.release import load_release
from translate.serve.limits import Limits, Refused
from translate.serve.line import Line
from translate.serve.models import Models, Offer
from translate.serve.server import Place
from translate.serve.workplace import LOCK, START, workplace

RELEASE = Path(__file__).parent / "data" / "run-b2bf1ce" / "release"
LIMITS = Limits(upload_bytes=4_000_000, pixels=60_000, places=3, head_seconds=0.3, idle_seconds=0.2, upload_seconds=0.6,
                drain_seconds=0.3)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Slow(Identity):
    """Waits until it may go on; says when it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_go = threading.Event(), threading.Event()

    def __deepcopy__(self, memo: object) -> Slow:
        return self

    def translate(self, image: Tensor) -> Tensor:
        self.begun.set()
        assert self.may_go.wait(40)
        return super().translate(image)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where servers keep what is in hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        yield Path(tempfile.gettempdir())


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    toy = load_release(RELEASE, "ba")
    with running([Offer.of("tiny", tiny_release()), Offer.of("toy", toy)], LIMITS) as one:
        yield one


@pytest.fixture
def slow(folder: Path) -> Iterator[tuple[Running, Slow]]:
    generator = Slow()
    with running([Offer.of("slow", release_of(generator))], LIMITS) as one:
        yield one, generator
        generator.may_go.set()


def in_thread(work: Callable[[], Answer]) -> Callable[[], Answer]:
    """Begin a request; what comes back waits for its answer."""
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()

    def wait() -> Answer:
        thread.join(40)
        return answers[0]

    return wait


def is_ending(server: Running) -> bool:
    """Whether it takes no new requests."""
    try:
        return bool(server.ask("GET", "/health").json["status"] == "ending")
    except OSError:
        return True


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


# ---- what comes out


def test_what_comes_out_is_the_file_that_convert_writes(server: Running, tmp_path: Path) -> None:
    """Byte for byte, under the same name and key, for every kind of file: what is said of one is true of both."""
    inputs = tmp_path / "in"
    inputs.mkdir()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "sideways"
    Image.fromarray(noise(20, 30)).save(inputs / "turned.JPG", exif=exif, dpi=(90, 90))
    Image.fromarray(noise(21, 33, 4)).save(inputs / "with alpha.png")
    Image.fromarray(noise(24, 20)).convert("P").save(inputs / "palette.gif")
    Image.fromarray(noise(16, 40)).save(inputs / "größe.webp", lossless=True)
    pages = [Image.fromarray(noise(17, 19, seed=seed)) for seed in (1, 2)]
    pages[0].save(inputs / "pages.tif", save_all=True, append_images=pages[1:])
    convert(inputs, tmp_path / "out", tiny_release(), workers=0)
    rows = last_rows(tmp_path / "out")
    assert len(rows) == 5
    for name, row in rows.items():
        answer = server.translate((inputs / name).read_bytes(), name, model="tiny")
        assert answer.content == (tmp_path / "out" / row["output"]).read_bytes(), name
        assert answer.headers["etag"] == f'"{row["key"]}"'
        disposition = answer.headers["content-disposition"]
        assert answer.headers["content-type"] in ("image/jpeg", "image/png", "image/webp", "image/tiff")
        assert unquote(disposition.rpartition("''")[2] or disposition.split('"')[1]).strip('"').endswith(row["output"])


def test_an_output_that_the_client_has_is_not_made_again(server: Running) -> None:
    image = png(noise(20, 20))
    tag = server.translate(image).headers["etag"]
    same = server.translate(image, headers={"If_None_Match": tag})
    assert (same.status, same.headers["etag"], same.content) == (304, tag, b"")
    others = [server.translate(image, headers={"If_None_Match": tag}, resize="30"),
              server.translate(image, headers={"If_None_Match": tag}, model="toy"),
              server.translate(png(noise(20, 20, seed=1)), headers={"If_None_Match": tag})]
    assert {other.status for other in others} == {200} and len({other.headers["etag"] for other in others} | {tag}) == 4


def test_model_direction_and_scale_are_chosen(server: Running, tmp_path: Path) -> None:
    offers = {each["name"]: each["directions"] for each in server.ask("GET", "/models").json["models"]}
    assert [way["direction"] for way in offers["toy"]] == ["ba"] and offers["toy"][0]["scale"] == [40, 40]
    write_image(tmp_path / "image.png", noise(60, 90))
    content = (tmp_path / "image.png").read_bytes()
    convert(tmp_path / "image.png", tmp_path / "out", load_release(RELEASE, "ba"), resize="trained", size="input",
            workers=0)
    made = server.translate(content, model="toy", direction="ba", resize="trained", size="input")
    assert made.content == (tmp_path / "out" / "image.png").read_bytes()
    assert "another scale" in unquote(server.translate(content, model="toy").headers["x-notes"])
    for values, status in (({"model": "no"}, 404), ({"model": "toy", "direction": "ab"}, 404), ({"resize": "-1"}, 422),
                           ({"resize": "1e9"}, 422), ({"size": "x"}, 422), ({"resize": "trained"}, 422)):
        assert server.translate(content, **values).status == status, values


def test_the_memory_that_is_foretold_is_what_convert_goes_by(server: Running) -> None:
    said = server.ask("GET", "/memory?height=100&width=130").json
    assert said["bytes"] == tiling.whole_bytes(tiny_release().generator, (1, 3, 100, 130))
    assert said["fits"] and not said["in_strips"]
    offer = Offer.of("bounded", tiny_release(), memory="80MB")
    bounded = offer.memory(300, 900, offer.scaling(None, None))
    assert bounded["in_strips"] and bounded["bytes"] <= 80_000_000
    little = replace(offer, planned=replace(offer.planned, memory="1MB"))
    assert not little.memory(20, 20, little.scaling("", ""))["fits"]
    for query in ("height=0&width=9", "height=9", "height=a&width=9", "height=1000&width=1000", "height=9²&width=9",
                  "height=9&width=9&resize=9000"):
        assert server.ask("GET", f"/memory?{query}".replace("²", "%C2%B2")).status == 422


def test_images_that_browsers_do_not_show_become_ones_they_do(server: Running, tmp_path: Path) -> None:
    deep = (noise(20, 30).astype(np.uint16) * 257)
    write_image(tmp_path / "deep.tif", deep)
    write_image(tmp_path / "floats.tif", np.linspace(-1, 7, 600, dtype=np.float32).reshape(20, 30))
    for name in ("deep", "floats"):
        answer = server.ask("POST", "/preview", form((tmp_path / f"{name}.tif").read_bytes(), f"{name}.tif"))
        shown = decode(answer.content, Path("shown.png")).pixels
        assert answer.headers["content-type"] == "image/png" and shown.dtype == np.uint8
        if name == "deep":
            assert (shown == deep // 257).all()
        else:
            assert (shown.min(), shown.max()) == (0, 255)
    assert server.ask("POST", "/preview", form(b"no image")).status == 422


# ---- whose turn it is


def test_progress_is_told_and_a_full_line_says_when_to_come_again(slow: tuple[Running, Slow]) -> None:
    server, generator = slow
    image, tickets = png(noise(8, 8)), [new_ticket() for _ in range(3)]
    states = lambda: [server.ask("GET", f"/progress/{ticket}").json for ticket in tickets]  # noqa: E731
    answers = []
    for number, ticket in enumerate(tickets):
        answers.append(in_thread(lambda ticket=ticket: server.translate(image, headers={"X_Ticket": ticket})))
        wait_until(lambda number=number: states()[number].get("state") in ("waiting", "working"))
    assert [state["state"] for state in states()] == ["working", "waiting", "waiting"]
    assert [state["ahead"] for state in states()] == [0, 1, 2]
    full = server.translate(image)
    assert full.status == 503 and 1 <= int(full.headers["retry-after"]) <= 300
    assert server.ask("GET", "/health").json == {"status": "ok", "places": 3, "taken": 3}
    generator.may_go.set()
    assert [answer().status for answer in answers] == [200, 200, 200]
    wait_until(lambda: server.ask("GET", "/health").json["taken"] == 0)
    assert states() == [{"state": "none"}] * 3


def test_who_leaves_while_waiting_loses_the_place(slow: tuple[Running, Slow]) -> None:
    """Else a page that is closed and opened again would fill the line with images that nobody takes."""
    server, generator = slow
    first = in_thread(lambda: server.translate(png(noise(8, 8))))
    assert generator.begun.wait(30)
    body = form(png(noise(9, 9)))
    with closing(socket.create_connection(("127.0.0.1", server.port))) as leaving:
        leaving.sendall(head("POST", "/translate", server, len(body)) + body)
        wait_until(lambda: server.ask("GET", "/health").json["taken"] == 2)
    wait_until(lambda: server.ask("GET", "/health").json["taken"] == 1)
    generator.may_go.set()
    assert first().status == 200 and len(generator.seen) == 1


def test_a_stop_finishes_what_is_running_and_refuses_the_rest(folder: Path) -> None:
    generator = Slow()
    with running([Offer.of("slow", release_of(generator))], LIMITS) as server:
        image = png(noise(8, 8))
        first = in_thread(lambda: server.translate(image))
        assert generator.begun.wait(30)
        second = in_thread(lambda: server.translate(image))
        wait_until(lambda: server.ask("GET", "/health").json["taken"] == 2)
        server.end()
        wait_until(lambda: is_ending(server))
        generator.may_go.set()
        assert first().status == 200 and first().content
        assert second().status == 503 and "retry-after" in second().headers
    assert left_in(folder) == []


# ---- what is hostile


def head(method: str, path: str, server: Running, length: int, more: str = "") -> bytes:
    return (f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {length}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n{more}\r\n").encode()


class Canary:
    """Leaves a trace where somebody unpickles it."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


HOSTS = ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::1", "evil.example:80"]
OTHERS = [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
          {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}]


def test_only_our_own_page_and_programs_are_listened_to(server: Running) -> None:
    """A name that somebody else points at 127.0.0.1, and pages of other sites: a browser would let them in."""
    image = png(noise(8, 8))
    for host in HOSTS:
        assert server.ask("GET", "/models", Host=host).status in (400, 421), host
        assert server.translate(image, headers={"Host": host}).status in (400, 421), host
    for headers in OTHERS:
        assert server.translate(image, headers=headers).status == 403, headers
        assert server.ask("GET", "/models", **headers).status == 403
    assert server.ask("GET", "/", Sec_Fetch_Site="cross-site").status == 200  # a link to the page
    for host in (f"127.0.0.1:{server.port}", "localhost", "[::1]:80", "10.0.0.7"):
        assert server.ask("GET", "/models", Host=host).status == 200, host
    own = {"Origin": f"http://localhost:{server.port}", "Host": f"localhost:{server.port}",
           "Sec_Fetch_Site": "same-origin"}
    assert server.translate(image, headers=own).status == 200


def test_what_is_no_image_or_no_form_is_refused_and_nothing_of_it_stays(server: Running, folder: Path,
                                                                       tmp_path: Path) -> None:
    good = png(noise(8, 8))
    bodies: dict[str, tuple[bytes, int]] = {
        "false head": (form(false_header(tmp_path).read_bytes()), 422),
        "wide bomb": (form(png(np.zeros((1, 60_001), np.uint8))), 422),
        "text": (form(b"hello"), 422), "nothing": (form(b""), 422),
        "pickle": (form(pickle.dumps(Canary(tmp_path / "trace")), "model.png"), 422),
        "postscript": (form(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run", "x.eps"), 422),
        "svg": (form(b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>', "x.svg"), 422),
        "zip": (form(b"PK\3\4" + bytes(99), "x.zip"), 422), "cut image": (form(good[:40]), 422),
        "no file": (form(None, model="tiny"), 400), "cut form": (form(good)[:-40], 400),
        "two images": (form(good).replace(f"--{BOUNDARY}--\r\n".encode(), b"") + form(good), 400),
        "many parts": (form(good, **{f"v{number}": 1 for number in range(20)}), 400),
        "long value": (form(good, model="x" * 2_000), 400),
        "enlarged": (form(good, resize=9000), 413), "endless header": (form(good, "x" * 5_000), 400),
        "no parts": (b"hello", 400), "large": (form(bytes(5_000_000)), 413)}
    for number, bomb in enumerate((huge_tile, endless_strip, lying_jpeg_tile)):
        bomb(tmp_path / f"{number}.tif")
        bodies[bomb.__name__] = form((tmp_path / f"{number}.tif").read_bytes(), "x.tif"), 422
    for name, (body, status) in bodies.items():
        began = time.monotonic()
        answer = server.ask("POST", "/translate", body)
        assert answer.status == status and answer.json["error"], f"{name}: {answer}"
        assert str(folder) not in answer.json["error"] and time.monotonic() - began < 5, name
    for kind in ("text/plain", "application/json", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 999):
        assert server.ask("POST", "/translate", form(good), Content_Type=kind).status in (400, 415)
    assert server.ask("PUT", "/translate", form(good)).status == 405
    assert server.ask("GET", "/../../etc/passwd").status == 404 and server.ask("GET", "/page.html.j2").status == 404

    # Nothing was run, nothing is left, and the server goes on.
    assert not (tmp_path / "trace").exists() and server.translate(good).status == 200
    wait_until(lambda: server.ask("GET", "/health").json["taken"] == 0)
    assert left_in(folder) == []


@pytest.mark.parametrize("name", [
    "../../../tmp/x.png", "/etc/passwd", "C:\\x\\y.png", "a/../b.PNG", "x" * 400 + ".png", "\x01\x1b[2J.png", ".png",
    "..", "", "x.png/../../y", "%2e%2e%2fx.png", "x.tif\x00.png", 'q".png', "x\u202egnp.exe"])
def test_a_name_is_no_path(server: Running, folder: Path, name: str) -> None:
    answer = server.translate(png(noise(8, 8)), name)
    assert answer.status in (200, 400)
    if answer.status == 200:
        disposition = answer.headers["content-disposition"]
        given = unquote(disposition.partition("''")[2]) or disposition.partition('"')[2].rstrip('"')
        assert given and not set(given) & set("/\\\x00\x01\x1b\r\n") and given not in (".", "..")
        assert all(letter.isprintable() for letter in given)


def test_who_sends_slowly_is_not_waited_for(server: Running) -> None:
    """A body of 100 MB at a byte a second would hold a place for three years; a head without end, a connection."""
    def gone_after(first: bytes, piece: bytes) -> tuple[float, bytes]:
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=5)) as client:
            began, received = time.monotonic(), b""
            client.sendall(first)
            client.settimeout(0.05)
            while time.monotonic() - began < 5:
                try:
                    if not (got := client.recv(4096)):
                        break
                    received += got
                except TimeoutError:
                    client.sendall(piece)
                except ConnectionError:
                    break
                except OSError:
                    break
            return time.monotonic() - began, received

    form_begins = form(b"")[:-len(f"\r\n--{BOUNDARY}--\r\n")]
    upload = head("POST", "/translate", server, 3_900_000) + form_begins
    sent = [(upload, b""), (upload, b"x"), (b"GET /health HT", b""), (b"GET /health HTTP/1.1\r\n", b"X"),
            (head("GET", "/health", server, 10**8), b"x" * 99)]
    with ThreadPoolExecutor(len(sent)) as clients:
        seconds, said = zip(*clients.map(lambda each: gone_after(*each), sent), strict=True)
    assert max(seconds) < 4 and b" 408 " in said[0] and b" 408 " in said[1]
    assert not said[2] and not said[3] and b" 200 " in said[4]
    assert server.ask("GET", "/health").json["taken"] == 0


def test_a_body_larger_than_allowed_is_cut_off_whatever_its_head_says(server: Running) -> None:
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as client:
        client.sendall(head("POST", "/translate", server, 10**8))
        assert b" 413 " in client.recv(4096)
    chunked = head("POST", "/translate", server, 0, "Transfer-Encoding: chunked\r\n")
    chunked = chunked.replace(b"Content-Length: 0\r\n", b"")
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as client:
        body = form(bytes(10**7))[:5_000_000]
        client.sendall(chunked + f"{len(body):x}\r\n".encode() + body + b"\r\n")
        assert b" 413 " in client.recv(4096)


def test_connections_that_say_nothing_are_closed_and_keep_nobody_out(folder: Path) -> None:
    with running([Offer.of("tiny", tiny_release())], replace(LIMITS, connections=5)) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(9)]
        began = time.monotonic()
        for each in reversed(idle):
            with suppress(ConnectionError), closing(each):
                assert each.recv(1) == b""
        assert time.monotonic() - began < 5
        assert server.translate(png(noise(8, 8))).status == 200


def test_who_does_not_take_the_answer_loses_the_place(folder: Path) -> None:
    limits = replace(LIMITS, pixels=10**7, upload_bytes=10**8, upload_seconds=20, answer_seconds=0.3)
    with running([Offer.of("same", release_of(Identity()))], limits) as server:
        body = form(png(noise(1_300, 1_300)))
        with closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.sendall(head("POST", "/translate", server, len(body)) + body)
            wait_until(lambda: "same" in "".join(server.lines))
            wait_until(lambda: server.ask("GET", "/health").json["taken"] == 0)
            port = client.getsockname()[1]
            wait_until(lambda: port not in {each.raddr.port for each in psutil.Process().net_connections()
                                            if each.raddr and each.laddr.port == server.port})
        assert left_in(folder) == [] and server.translate(png(noise(8, 8))).status == 200


def test_who_takes_no_answer_does_not_keep_the_server_from_ending(folder: Path) -> None:
    """SIGTERM was waited for until the client had taken all: for ever, where it takes nothing."""
    limits = replace(LIMITS, pixels=10**7, upload_bytes=10**8, upload_seconds=20, answer_seconds=60)
    clients = []
    with running([Offer.of("same", release_of(Identity()))], limits) as server:
        body = form(png(noise(1_300, 1_300)))
        page = f"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
        for number, asked in enumerate((head("POST", "/translate", server, len(body)) + body, page * 2_000)):
            clients.append(socket.create_connection(("127.0.0.1", server.port), timeout=0.2))
            clients[number].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            with suppress(TimeoutError):
                clients[number].sendall(asked)
        wait_until(lambda: server.ask("GET", "/health").json["taken"] == 1 and "same" in "".join(server.lines))
        began = time.monotonic()
    assert time.monotonic() - began < 10 and left_in(folder) == []
    for client in clients:
        client.close()


@pytest.mark.parametrize("address", ["/translate", "/preview"])
def test_a_full_disk_is_answered_with_507_wherever_it_fills(address: str, server: Running, folder: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """While an image arrived, or the shown one was written, it was a bare 500 in plain text."""
    full = OSError(errno.ENOSPC, "No space left on device")
    failing = [(Path, "open")] + ([(Image.Image, "save")] if address == "/preview" else [])
    body = form(png(noise(8, 8)))
    for owner, name in failing:
        real = getattr(owner, name)

        def fails(self: Any, *words: Any, real: Any = real, **options: Any) -> Any:
            if folder in Path(words[0] if isinstance(words[0], Path) else self).parents:  # not what tests write
                raise full
            return real(self, *words, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            answer = server.ask("POST", address, body)
        assert answer.status == 507 and "log" in answer.json["error"]
        assert "No space left" in server.lines[-1]
    assert "507" in server.ask("GET", "/openapi.json").json["paths"][address]["post"]["responses"]
    assert server.ask("POST", address, body).status == 200
    wait_until(lambda: left_in(folder) == [])


def test_what_is_ahead_is_told_by_the_end_of_uploads_as_turns_are_taken() -> None:
    """Who came first and uploads still has nobody ahead for it; who was done before it has its turn."""
    line = Line(3, "line")
    with line.place() as slow, line.place() as quick, line.place() as last:
        turns: list[str] = []

        async def all_three() -> list[int]:
            async with line._turn:
                runs = []
                for name, ticket in (("quick", quick), ("last", last), ("slow", slow)):
                    runs.append(asyncio.ensure_future(line.run(ticket, lambda name=name: turns.append(name))))
                    await asyncio.sleep(0.01)
                ahead = [line.ahead_of(each) for each in (quick, last, slow)]
            await asyncio.gather(*runs)
            return ahead

        assert asyncio.run(all_three()) == [0, 1, 2] and turns == ["quick", "last", "slow"]
    line.close()


# ---- the token, the place, the folder


def test_a_token_is_asked_for_and_compared_whole(folder: Path) -> None:
    token = "a-token-of-many-letters"
    with running([Offer.of("tiny", tiny_release())], LIMITS, token) as server:
        image = png(noise(8, 8))
        for given in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Bearer {token}x"}, {"Authorization": ""},
                      {"Authorization": f"Bearer {token[:-1]}"}):
            for answer in (server.translate(image, headers=given), server.ask("GET", "/models", **given),
                           server.ask("GET", "/openapi.json", **given)):
                assert answer.status == 401 and "bearer" in answer.headers["www-authenticate"].lower()
        assert server.translate(image, headers={"Authorization": f"Bearer {token}"}).status == 200
        for page in (server.ask("GET", "/"), server.ask("GET", "/api")):
            assert page.status == 200 and token.encode() not in page.content and b"tiny" not in page.content
        assert server.ask("GET", "/health").status == 200


def test_an_address_that_others_reach_has_a_token_and_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Studio")
    with closing((place := Place.open("127.0.0.1", 0)).socket):
        assert place.is_local and place.admission.token is None and "#" not in place.address
    with closing((first := Place.open("0.0.0.0", 0, ["pictures.example"])).socket), closing(
            (second := Place.open("0.0.0.0", 0)).socket):
        assert not first.is_local and first.admission.token and len(first.admission.token) >= 32
        assert first.admission.token != second.admission.token and first.address.endswith(f"/#{first.admission.token}")
    bearer = {"authorization": f"Bearer {first.admission.token}"}
    for host in ("pictures.example", "studio:8000", "192.168.0.4"):
        first.admission.check("GET", "/models", bearer | {"host": host})
    for host in ("evil.example", "pictures.example.evil"):
        with pytest.raises(Refused):
            first.admission.check("GET", "/models", bearer | {"host": host})
    with pytest.raises(UsageError, match="expected 16"):
        Place.open("127.0.0.1", 0, token="short")
    with closing((taken := Place.open("127.0.0.1", 0)).socket), pytest.raises(UsageError, match="cannot listen"):
        Place.open("127.0.0.1", taken.socket.getsockname()[1])
    with pytest.raises(UsageError, match="cannot listen"):
        Place.open("192.0.2.1", 0)


def test_a_folder_of_a_killed_server_is_removed_and_of_a_living_one_kept(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{START}killed"
    left.mkdir()
    (left / LOCK).touch()
    (left / "input.png").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / f"{START}link").symlink_to(tmp_path / "other")
    with workplace() as first:
        assert not left.exists() and first.stat().st_mode & 0o777 == 0o700
        with workplace() as second:
            assert first.exists() and second != first
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{START}link", "other"]
    assert not any((tmp_path / "other").iterdir())


# ---- what programs read


def test_the_document_describes_every_address_and_none_besides(server: Running) -> None:
    document = server.ask("GET", "/openapi.json").json
    assert document["openapi"].startswith("3.1") and json.dumps(document)
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            asked = path.replace("{ticket}", new_ticket())
            status = server.ask(method.upper(), asked, b"" if method == "post" else None).status
            assert str(status) in said["responses"], (path, status)
            assert {each["name"] for each in said.get("parameters", []) if each["in"] == "path"} == (
                {"ticket"} if "{" in path else set())
    for reference in {part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/')[1:]}:
        found = document
        for name in reference.split("/"):
            found = found[name]
    page = server.ask("GET", "/api").content.decode()
    assert all(path in page for path in document["paths"])


def test_every_answer_forbids_other_sites_to_use_it(server: Running) -> None:
    for path in ("/", "/api", "/page.js", "/models", "/nowhere"):
        headers = server.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff" and "access-control-allow-origin" not in headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "'unsafe-inline'" not in headers["content-security-policy"].partition("script-src")[2].partition(";")[0]


# ---- the command


def test_the_command_serves_until_a_signal_and_ends_with_0(tmp_path: Path, folder: Path) -> None:
    image = tmp_path / "image.png"
    write_image(image, noise(20, 24))
    convert(image, tmp_path / "out", load_release(RELEASE), workers=0)
    command = Command(tmp_path / "printed.txt", "serve", RELEASE, "--port", 0, DIPTYCH_TOKEN="a-token-of-many-letters")
    try:
        wait_until(lambda: command.printed.exists() and "open http" in command.printed.read_text())
        port, token = command.printed.read_text().partition("open http://127.0.0.1:")[2].split()[0].split("/#")
        server = Running(int(port))
        answer = server.translate(image.read_bytes(), headers={"Authorization": f"Bearer {token}"})
        assert answer.content == (tmp_path / "out" / "image.png").read_bytes()
    finally:
        command.send(signal.SIGTERM)
        assert command.wait(20) == 0 and "ended, after" in command.printed.read_text()
    assert not [each for each in folder.glob(f"{START}*") if not (each / LOCK).exists()]


def test_what_is_missing_or_cannot_be_had_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                      said: io.StringIO) -> None:
    with closing((taken := Place.open("127.0.0.1", 0)).socket):
        assert call(monkeypatch, "serve", RELEASE, "--port", taken.socket.getsockname()[1]) == 2
    assert call(monkeypatch, "serve", tmp_path / "nothing", "--port", 0) == 2
    assert call(monkeypatch, "serve", RELEASE, "--max-upload", "much", "--port", 0) == 2
    monkeypatch.setattr("translate.cli.serving.find_spec", lambda name: None)
    assert call(monkeypatch, "serve", RELEASE) == 2
    lines = said.getvalue().splitlines()
    assert len(lines) == 4 and "pip install 'diptych[serve]'" in lines[-1]


def test_models_of_one_name_stay_apart(folder: Path) -> None:
    told: list[str] = []
    models = Models.load([RELEASE, RELEASE.parent / "run"], "cpu", "auto", None, lambda name, _: told.append(name))
    assert told == ["toy", "toy", "toy-2", "toy-2"] and list(models.offers) == [
        ("toy", "ab"), ("toy", "ba"), ("toy-2", "ab"), ("toy-2", "ba")]
    assert models.find("toy-2", None).release.direction == "ab"
    shared = models.find("toy", "ab")
    weights = [dict(each.release.generator.named_parameters()) for each in (shared.translating, shared.planned)]
    assert all(weight is weights[1][name] for name, weight in weights[0].items())
    assert shared.translating.release.generator is not shared.planned.release.generator
