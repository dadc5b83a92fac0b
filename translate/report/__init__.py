"""Reports of a run, of several side by side, of an adaptation: one HTML file each, which loads nothing."""

from translate.report.pages import write_adaptation, write_comparison, write_report
from translate.report.showcase import Showcase, Shown, encode

__all__ = ["Showcase", "Shown", "encode", "write_adaptation", "write_comparison", "write_report"]
