"""Describe a detector to a person: what it looks at, what it was trained on, what is normal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from relief_trainer import detector as detectors
from relief_trainer.connection import Connection
from relief_trainer.queries import query

STATISTICS = ("count", "mean", "stddev", "minimum", "maximum", "null_rate")


def describe(connection: Connection, name: str) -> dict[str, Any]:
    """Return a detector with its features, its versions, and profile and provenance of the promoted or newest model."""
    detector = detectors.fetch(connection, name)
    models = connection.execute(query("models", detector_id=detector.id)).fetchall()
    shown = detector.promoted_version or (models[-1]["version"] if models else None)
    content: dict[str, Any] = {}
    if shown is not None:
        row = connection.execute(query("document", detector_id=detector.id, version=shown)).fetchone() or {}
        content = json.loads(row["document"])
    return {
        "detector": detector.name,
        "table": detector.relation,
        "attached": detector.attached,
        "contamination": detector.contamination,
        "threshold": detector.threshold,
        "on_error": detector.on_error,
        "time_column": detector.time_column,
        "promoted_version": detector.promoted_version,
        "features": [
            {"name": feature.name, "expression": feature.expression, **content.get("profile", {}).get(feature.name, {})}
            for feature in detector.features
        ],
        "versions": models,
        "shown_version": shown,
        "provenance": content.get("provenance", {}),
    }


def render(description: dict[str, Any]) -> str:
    """Return a description as text for a terminal."""
    judged_by = (
        f"contamination {description['contamination']}"
        if description["threshold"] is None
        else f"threshold {description['threshold']}"
    )
    promoted = description["promoted_version"]
    attached = "attached" if description["attached"] else "not attached"
    lines = [
        f"detector {description['detector']} on {description['table']}: {judged_by}, {attached}, "
        + (f"version {promoted} promoted" if promoted else "no version promoted"),
        "",
        table(
            ["feature", "expression", *STATISTICS],
            [[f["name"], f["expression"], *(f.get(s) for s in STATISTICS)] for f in description["features"]],
        ),
    ]
    if description["versions"]:
        lines += [
            "",
            table(list(description["versions"][0])[:-1], [list(m.values())[:-1] for m in description["versions"]]),
        ]
    if description["provenance"]:
        lines += ["", f"version {description['shown_version']} was trained with"]
        lines += [f"  {key}: {_plain(value)}" for key, value in description["provenance"].items() if value is not None]
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as aligned text that reads the same on a terminal and in a pipe."""
    cells = [[str(name) for name in header], *([_plain(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _plain(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    return str(value)
