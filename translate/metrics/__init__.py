"""Measures of quality: prediction against truth."""
