"""How much, how long and how many: what one request may take, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass

from translate.images.pictures import MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """What a server allows.

    upload_bytes     of a body
    pixels           of an image, told by its head before it is decoded, and of what it is enlarged to
    places           images that are uploaded, wait, are translated or sent at once; one more is answered with 503
    connections      open at once
    head_seconds     from an open connection to a whole request, from an answer to the next
    idle_seconds     between two pieces of a body; and, once the server ends, of an answer that is taken
    upload_seconds   for a whole body
    decode_seconds   for decoding a file, or a piece of one that is read by rows; then the decoder is ended
    drain_seconds    that a refused body is read on, so that who sends it sees the answer
    answer_seconds   for whoever asked to take the answer; then the connection is aborted
    """

    upload_bytes: int = 256 * 2**20
    pixels: int = MAX_PIXELS
    places: int = 16
    connections: int = 256
    head_seconds: float = 10.0
    idle_seconds: float = 10.0
    upload_seconds: float = 300.0
    decode_seconds: float = 120.0
    drain_seconds: float = 1.0
    answer_seconds: float = 300.0


class Refused(Exception):
    """A request that is not carried out: an HTTP status, and why in words."""

    def __init__(self, status: int, why: str, **headers: str):
        super().__init__(why)
        self.status, self.why = status, why
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
