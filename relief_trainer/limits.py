"""Refuse a model that is too large as early as that can be known, by the limits that the server has for it."""

from __future__ import annotations

from relief_runtime import document
from sklearn.ensemble import IsolationForest

from relief_trainer.errors import ReliefError


def refuse_more(what: str, count: int) -> None:
    """Raise an error if a model has more characters, features, trees or nodes than `relief_runtime.document.LIMITS`."""
    try:
        document.refuse_more(what, count)
    except document.LimitError as error:
        raise ReliefError(str(error), error.hint) from None


def refuse_more_nodes(forest: IsolationForest) -> None:
    """Raise an error if a fitted forest has more nodes than a model may have."""
    refuse_more("nodes", sum(estimator.tree_.node_count for estimator in forest.estimators_))
