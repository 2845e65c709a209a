"""The report: run directories -> one self-contained HTML file, or a picture. Imports neither torch nor the training."""

from sgpo.report.page import save_picture, write_report

__all__ = ["save_picture", "write_report"]
