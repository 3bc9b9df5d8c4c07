"""Draw how versions compare, and what thresholds do, where a person would rather look than read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relief_trainer.errors import ReliefError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
LABELLED = ("promoted_labelled_scores", "labelled_scores")


def draw_scores(file: str, detector: str, compared: Mapping[str, Any]) -> None:
    """Draw the scores of the same rows by two versions, a point a row; without a promoted version, how many have each.

    Parameters
    ----------
    compared
        The fields of ``relief._comparison``.
    """

    def draw(axes: Axes) -> None:
        axes.set_xlabel(f"score by version {compared['promoted_version'] or compared['version']}")
        if compared["promoted_version"] is None:
            axes.hist([score for score in compared["scores"] or [] if score is not None], bins=50)
            axes.set_ylabel("rows")
            axes.axvline(compared["threshold"], color="0.4", linestyle="--", label="threshold")
        else:
            rows = _pairs(compared["promoted_scores"], compared["scores"])
            axes.scatter(rows[0], rows[1], s=4, alpha=0.3, color="0.5", linewidths=0, rasterized=True, label="rows")
            axes.set_ylabel(f"score by version {compared['version']}")
            axes.axvline(compared["promoted_threshold"], color="0.4", linestyle="--", label="thresholds")
            axes.axhline(compared["threshold"], color="0.4", linestyle="--")
            labels = compared["labels"] or []
            for flag, color, name in ((True, "C3", "labelled anomalies"), (False, "C0", "labelled ordinary")):
                chosen = [at for at, label in enumerate(labels) if label is flag]
                if chosen:
                    across, up = ([compared[side][at] for at in chosen] for side in LABELLED)
                    axes.scatter(across, up, s=18, color=color, label=name)
        axes.legend()

    _save(file, f"{detector}: scores", draw)


def draw_thresholds(file: str, detector: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Draw precision, recall, F1 and the share of flagged rows by threshold: the rows of relief.suggest_threshold."""

    def draw(axes: Axes) -> None:
        at = [row["threshold"] for row in found]
        for name in ("precision", "recall", "f1", "alert_rate"):
            axes.plot(at, [row[name] for row in found], marker=".", label=name.replace("_", " "))
        for row in found:
            if "in use" in (row["remark"] or ""):
                axes.axvline(row["threshold"], color="0.4", linestyle="--", label="in use")
        axes.set_xlabel("threshold")
        axes.set_ylim(-0.02, 1.02)
        axes.legend()

    _save(file, f"{detector}: thresholds", draw)


def _pairs(
    first: Sequence[float | None] | None, second: Sequence[float | None] | None
) -> tuple[list[float], list[float]]:
    """Return the scores of those rows that have both."""
    both = [(a, b) for a, b in zip(first or [], second or [], strict=True) if a is not None and b is not None]
    return [a for a, _ in both], [b for _, b in both]


def _save(file: str, title: str, draw: Any) -> None:
    if Path(file).suffix.lower() not in FORMATS:
        raise ReliefError(f'"{file}" is no file to draw into', f"Its name ends in one of {', '.join(FORMATS)}.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ReliefError("matplotlib is not installed", "Install it: pip install '.[plot]'") from None
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, parse_math=False)
    draw(axes)
    try:
        figure.savefig(file, dpi=150)
    except OSError as error:
        raise ReliefError(f"cannot write {file}: {error.strerror}", "Give a file in a folder that is there.") from error
