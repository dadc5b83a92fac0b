"""The report of a run, and several runs side by side: one HTML file each, which asks for nothing from anywhere."""

from translate.report.pages import write_comparison, write_report
from translate.report.showcase import Showcase

__all__ = ["Showcase", "write_comparison", "write_report"]
