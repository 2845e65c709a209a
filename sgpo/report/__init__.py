"""The report: run directories -> one self-contained HTML file. Imports neither torch nor the training."""

from sgpo.report.page import write_report
from sgpo.report.picture import save_picture

__all__ = ["save_picture", "write_report"]
