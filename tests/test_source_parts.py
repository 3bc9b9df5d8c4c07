"""What sources are made of: samples of streams, numbers of values, URIs without secrets, a source of one's own."""

from __future__ import annotations

import datetime
import inspect
import json
import math
import random
import textwrap
from collections import Counter
from decimal import Decimal
from importlib.metadata import entry_points
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from relief_trainer.cli import main
from relief_trainer.sources import Source, open_source, uris, values
from relief_trainer.sources.reservoir import Lottery, Reservoir


@given(st.integers(1, 20), st.lists(st.integers(0, 30), max_size=20), st.integers())
def test_a_reservoir_keeps_as_many_as_asked_for_of_any_stream(size: int, batches: list[int], seed: int) -> None:
    reservoir: Reservoir[int] = Reservoir(size, random.Random(seed))
    offered = 0
    for count in batches:
        reservoir.offer(range(offered, offered + count))
        offered += count
    assert len(reservoir.kept) == len(set(reservoir.kept)) == min(size, offered)
    assert set(reservoir.kept) <= set(range(offered))
    assert reservoir.seen == offered


def test_a_reservoir_keeps_each_item_with_the_same_probability() -> None:
    counts: Counter[int] = Counter()
    for seed in range(2000):
        reservoir: Reservoir[int] = Reservoir(10, random.Random(seed))
        for start in range(0, 100, 7):
            reservoir.offer(range(start, min(start + 7, 100)))
        counts.update(reservoir.kept)
    expected = 2000 * 10 / 100
    chi_square = sum((counts[item] - expected) ** 2 / expected for item in range(100))
    assert chi_square < 148  # the 99.9 % quantile for 99 degrees of freedom


def test_a_reservoir_touches_few_items_of_a_long_stream() -> None:
    touched = []

    class Watched:
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, position: int) -> int:
            touched.append(position)
            return position

    reservoir: Reservoir[int] = Reservoir(10, random.Random(1))
    for _ in range(1000):
        reservoir.offer(Watched())  # type: ignore[arg-type]
    assert reservoir.seen == 1_000_000
    assert len(touched) < 10 * (1 + 3 * np.log(1_000_000 / 10))


@given(
    st.sets(st.binary(max_size=8), min_size=1, max_size=60), st.integers(1, 40), st.integers(0, 2**31 - 1), st.randoms()
)
def test_a_lottery_draws_the_same_keys_in_any_order_however_often_they_come(
    keys: set[bytes], size: int, seed: int, generator: random.Random
) -> None:
    drawn = []
    for _ in range(2):
        lottery = Lottery(size, seed)
        offered = [*keys, *generator.choices(sorted(keys), k=10)]
        generator.shuffle(offered)
        for key in offered:
            lottery.offer(key)
        drawn.append(lottery.kept())
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == len(drawn[0]) == min(size, len(keys))
    assert set(drawn[0]) <= keys


def test_a_lottery_draws_each_key_with_the_same_probability() -> None:
    keys = [b"key:%d" % number for number in range(100)]
    counts: Counter[bytes] = Counter()
    for seed in range(2000):
        lottery = Lottery(10, seed)
        for key in keys:
            lottery.offer(key)
        counts.update(lottery.kept())
    expected = 2000 * 10 / 100
    assert sum((counts[key] - expected) ** 2 / expected for key in keys) < 148


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1.0),
        (7, 7.0),
        (2**53 + 1, float(2**53)),
        (10**400, float("inf")),
        (-(10**400), float("-inf")),
        (Decimal("0.1"), 0.1),
        (Decimal("1e400"), float("inf")),
        (Decimal("1e-301"), 0.0),
        (datetime.timedelta(days=1, microseconds=500_000), 86400.5),
        (datetime.time(1, 1, 1, 500_000), 3661.5),
        (np.float32(0.1), 0.10000000149011612),
    ],
)
def test_a_value_becomes_the_number_that_the_server_makes_of_it(value: object, expected: float) -> None:
    assert values.number(value) == expected
    assert type(values.number(value)) is float


@pytest.mark.parametrize(
    "value", ["1", b"1", datetime.datetime(2024, 1, 1), datetime.date(2024, 1, 1), [1], UUID(int=1)]
)
def test_what_is_no_number_is_taken_for_none(value: object) -> None:
    with pytest.raises(TypeError):
        values.number(value)


def test_a_row_has_a_number_for_each_feature_and_nan_for_a_category() -> None:
    columns: dict[str, type] = {"a": float, "carrier": str, "b": float, "open": str}
    row = [1, "UA", None, True]
    (numbers,) = values.matrix([row], columns, "here")
    assert numbers.tolist() == pytest.approx([1.0, math.nan, math.nan, math.nan], nan_ok=True)
    assert values.texts(row, columns) == ["UA", "true"]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mysql://app:s3cret@host:3306/shop?table=t&password=s3cret", "mysql://host:3306/shop"),
        ("redis://:p%40ss@host/0?stream=s", "redis://host/0"),
        ("sqlite:///shop.db?table=t", "sqlite:///shop.db"),
    ],
)
def test_a_uri_is_shown_without_user_password_and_parameters(uri: str, shown: str) -> None:
    assert uris.without_secrets(uri) == shown


def test_a_variable_in_a_uri_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "p@ss/w:rd ü")
    assert uris.with_environment("mysql://a:${SECRET}@h/d") == "mysql://a:p%40ss%2Fw%3Ard%20%C3%BC@h/d"
    assert uris.with_environment("${SECRET}.csv") == "${SECRET}.csv"


@pytest.fixture
def installed_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the source that the documentation shows into a package of its own, with its entry point."""
    documentation = inspect.getdoc(Source) or ""
    example = textwrap.dedent(documentation.partition("::\n")[2].partition("\nAttributes\n")[0])
    group, name = entry_point_of(example)
    imports = (
        "from __future__ import annotations\nimport json\nfrom collections.abc import Iterator, Mapping\n"
        "from pathlib import Path\nfrom urllib.parse import urlsplit\n"
        "from relief_trainer.errors import ReliefError\nfrom relief_trainer.sources import Row, Source\n"
    )
    (tmp_path / "my_package.py").write_text(imports + example)
    metadata = tmp_path / "my_package-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{name}\n")
    monkeypatch.syspath_prepend(tmp_path)


def entry_point_of(example: str) -> tuple[str, str]:
    """Return the group and the line of the entry point that the example's comments name."""
    first, second = (line.lstrip("# ") for line in example.strip().splitlines()[:2])
    return first.partition('"')[2].partition('"')[0], second.replace('"', "")


def test_the_source_of_the_documentation_trains_and_scores(installed_example: None, tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    folder.mkdir()
    generator = random.Random(1)
    for number in range(40):
        (folder / f"{number:03}.json").write_text(json.dumps({"a": generator.random(), "b": generator.random()}))
    assert "folder" in {point.name for point in entry_points(group="relief.sources")}
    uri, model, out = f"folder://{folder}", str(tmp_path / "x.json"), tmp_path / "x.csv"
    for arguments in (
        ["train", "x", "--source", uri, "--features", "a,b", "--out", model],
        ["score", "--source", uri, "--model", model, "--out", str(out), "--batch-rows", "7"],
    ):
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    lines = out.read_text().splitlines()
    assert lines[0] == "file,relief_anomaly_score,relief_is_anomaly"
    assert [line.split(",")[0] for line in lines[1:]] == [f"{number:03}.json" for number in range(40)]
    with open_source(uri) as source:
        drawn, total = source.sample({"file": object}, 10, 1)
        assert (len(drawn), total) == (10, 40)


def test_the_example_is_of_about_thirty_lines() -> None:
    documentation = inspect.getdoc(Source) or ""
    example = documentation.partition("::\n")[2].partition("\nAttributes\n")[0]
    assert 25 <= len([line for line in example.splitlines() if line.strip()]) <= 35
