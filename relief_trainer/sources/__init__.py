"""Data that lives elsewhere: what a model is trained on, and what is scored, outside PostgreSQL.

`open_source` takes a URI and finds who reads it; `Source` is what a reader of your own implements.
"""

from relief_trainer.sources.registry import open_source
from relief_trainer.sources.source import Drawn, Row, Source

__all__ = ["Drawn", "Row", "Source", "open_source"]
