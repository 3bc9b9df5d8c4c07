"""The part of Relief that runs inside the database: pure Python, standard library alone.

The same modules are embedded in the install scripts and imported by the trainer, so a row gets the same score in both.
"""

__version__ = "0.2.0"
