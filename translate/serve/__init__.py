"""A page and an HTTP endpoint: who may have an image translated now, and within what limits?

Who calls whom:

    server       a socket, signals → app        the addresses: what comes in, what goes out
    connections  how long one may be idle        → admission     whose requests are looked at: Host, Origin, token
                                                 → line          whose turn it is; full: 503
                                                 → uploads       a body read into a file, within limits
                                                 → translation   one file translated, by the pieces of `convert`
                                                 → models        what is on offer, and the memory an image takes
                                                 → description   the same addresses as an OpenAPI document
    workplace    the folder of what is in hand: nothing in it outlives its request

An image is opened by a decoder process alone. What comes out is `translate convert`'s file, byte for byte.
Its libraries are those of the extra `serve`: `translate.cli.serving` checks for them before it imports the server.
"""
