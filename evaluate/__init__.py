"""The papers' tables and figures, measured on labelled images: ``python -m evaluate --help``."""
