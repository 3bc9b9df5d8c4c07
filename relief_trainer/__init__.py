"""The trainer of Relief: fits isolation forests on tables of a database and stores them there."""

from relief_runtime import __version__

__all__ = ["__version__"]
