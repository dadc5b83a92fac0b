"""Image files in and out: decoded without trust, by rows where they are large, written whole or not at all."""
