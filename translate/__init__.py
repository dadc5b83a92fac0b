"""Diptych: high-resolution image translation that fits your GPU."""

__version__ = "0.1.0"
