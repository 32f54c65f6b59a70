"""The report of a run: one self-contained HTML page."""

from transnext.report.examples import Example
from transnext.report.page import build_report

__all__ = ["Example", "build_report"]
