"""The life of models: candidate, promoted, retired; the check before a promotion, and the way back."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, constant, copy_of, proven, stump
from helpers.shop import FEATURES, make_orders
from helpers.world import World, told
from psycopg import Connection

INSERT = "insert into shop.orders (a, b) values (1, 1) returning relief_model_version"
STAGES = "select version, stage from relief.model_stage order by version"
LOG = """
    select action, version, reason, details from relief.audit
    where version is not null and action <> 'train' order by id
"""


@pytest.fixture
def versions(orders: Connection) -> Connection:
    """Return a database with four versions of "orders", of which version n scores n/10, and "orders" attached."""
    for version in range(1, 5):
        add_model(orders, "orders", constant(FEATURES, version / 10, 0.9))
    query(orders, "select relief.attach('orders')")
    return orders


def _promote(connection: Connection, *versions: int) -> None:
    for version in versions:
        assert value(connection, "select relief.promote('orders', %s)", version) == version


def _rollback(connection: Connection) -> int:
    return value(connection, "select relief.rollback('orders')")


def test_a_version_is_a_candidate_until_it_is_promoted_or_retired(versions: Connection) -> None:
    assert query(versions, STAGES) == [(n, "candidate") for n in (1, 2, 3, 4)]
    _promote(versions, 1, 3)
    query(versions, "select relief.retire('orders', 2)")
    assert query(versions, STAGES) == [(1, "candidate"), (2, "retired"), (3, "promoted"), (4, "candidate")]
    dated = "select version from relief.model_stage where {} is not null order by 1"
    assert query(versions, dated.format("promoted_at")) == [1, 3]
    assert query(versions, dated.format("retired_at")) == [2]


def test_rollback_goes_back_to_the_version_that_scored_before_and_retires_the_other(versions: Connection) -> None:
    _promote(versions, 1, 3)
    assert _rollback(versions) == 1
    assert query(versions, STAGES) == [(1, "promoted"), (2, "candidate"), (3, "retired"), (4, "candidate")]
    assert query(versions, INSERT) == [1]
    assert query(versions, "select promoted_version from relief.detector") == [1]


def test_rollbacks_in_a_row_go_back_farther_until_there_is_no_version_left(versions: Connection) -> None:
    _promote(versions, 2, 1, 3, 4)
    assert [_rollback(versions) for _ in range(3)] == [3, 1, 2]
    no_way_back = 'detector "orders" has no version to go back to from version 2'
    hint = "select version, stage, promoted_at from relief.model_stage where detector = 'orders';"
    with refused("55000", no_way_back, hint):
        _rollback(versions)
    assert query(versions, STAGES) == [(1, "retired"), (2, "promoted"), (3, "retired"), (4, "retired")]


def test_rollback_goes_back_by_when_versions_were_promoted_last(versions: Connection) -> None:
    _promote(versions, 1, 2, 3, 1, 1)
    assert [_rollback(versions) for _ in range(2)] == [3, 2]


def test_a_promotion_after_a_rollback_is_what_the_next_rollback_takes_back(versions: Connection) -> None:
    _promote(versions, 1, 2)
    assert _rollback(versions) == 1
    _promote(versions, 4)
    assert _rollback(versions) == 1


def test_rollback_passes_over_versions_that_were_retired_or_deleted(versions: Connection) -> None:
    _promote(versions, 1, 2, 3, 4)
    query(versions, "select relief.retire('orders', 3)")
    query(versions, "delete from relief.model where version = 2")
    assert _rollback(versions) == 1


def test_rollback_without_a_promoted_version_is_refused(versions: Connection) -> None:
    with refused("55000", 'detector "orders" has no promoted model', "select relief.promote('orders');"):
        _rollback(versions)


def test_promotions_of_one_transaction_are_rolled_back_in_their_order(versions: Connection) -> None:
    query(versions, "select relief.promote('orders', n) from generate_series(1, 4) as n")
    assert [_rollback(versions) for _ in range(3)] == [3, 2, 1]


def test_rollback_goes_back_in_order_though_the_clock_did(versions: Connection) -> None:
    _promote(versions, 3)
    query(versions, "update relief.model set promoted_at = promoted_at + interval '1 day' where version = 3")
    _promote(versions, 1, 2)
    assert [_rollback(versions) for _ in range(2)] == [1, 3]


def test_two_sessions_that_roll_back_at_once_go_back_two_versions(database: Database) -> None:
    make_orders(database.superuser)
    for version in range(1, 4):
        add_model(database.superuser, "orders", constant(FEATURES, version / 10, 0.9))
        _promote(database.superuser, version)
    first, second = database.connect(autocommit=False), database.connect()
    assert _rollback(first) == 2
    gone_back: list[int] = []
    waiting = threading.Thread(target=lambda: gone_back.append(_rollback(second)))
    waiting.start()
    database.wait_until_blocked(second)
    first.commit()
    waiting.join()
    assert gone_back == [1]
    assert database.query(STAGES) == [(1, "promoted"), (2, "retired"), (3, "retired")]


def test_promote_takes_the_newest_version_that_is_not_retired(versions: Connection) -> None:
    query(versions, "select relief.retire('orders', 4)")
    assert value(versions, "select relief.promote('orders')") == 3
    _promote(versions, 1)
    assert value(versions, "select relief.promote('orders')") == 3
    _rollback(versions)
    assert value(versions, "select relief.promote('orders')") == 2


def test_promoting_without_a_version_when_all_are_retired_is_refused(versions: Connection) -> None:
    query(versions, "select relief.retire('orders', n) from generate_series(1, 4) as n")
    with refused("55000", 'all versions of detector "orders" are retired', "Train another: relief train orders"):
        query(versions, "select relief.promote('orders')")


def test_a_retired_version_is_promoted_by_force_alone_and_is_in_service_again(versions: Connection) -> None:
    query(versions, "select relief.retire('orders', 2)")
    by_force = "promote it nevertheless: select relief.promote('orders', 2, force => true);"
    with refused("55000", 'version 2 of detector "orders" fails its check: it was retired on ', by_force):
        _promote(versions, 2)
    query(versions, "select relief.promote('orders', 2, force => true)")
    _promote(versions, 1)
    assert _rollback(versions) == 2


def test_retiring_what_cannot_be_retired_is_refused(versions: Connection) -> None:
    _promote(versions, 1)
    query(versions, "select relief.retire('orders', 2)")
    for version, sqlstate, message, hint in (
        (1, "55000", 'version 1 of detector "orders" is promoted', "select relief.rollback('orders');"),
        (2, "55000", 'version 2 of detector "orders" is retired already', "relief.promote('orders', 2, force => true)"),
        (9, "42704", 'detector "orders" has no model of version 9', "The versions are: 1, 2, 3, 4."),
        (
            None,
            "22004",
            'the version of detector "orders" to retire is NULL',
            "Name one of 4, 3: select relief.retire('orders', 4);",
        ),
    ):
        with refused(sqlstate, message, hint):
            query(versions, "select relief.retire('orders', %s)", version)
    assert query(versions, STAGES) == [(1, "promoted"), (2, "retired"), (3, "candidate"), (4, "candidate")]
    for version in (3, 4):
        query(versions, "select relief.retire('orders', %s)", version)
    with refused("22004", "to retire is NULL", "None can be retired by now; train another first: relief train orders"):
        query(versions, "select relief.retire('orders', null)")


def test_the_log_tells_what_replaced_what_and_why(versions: Connection) -> None:
    _promote(versions, 1)
    query(versions, "select relief.promote('orders', 2, reason => 'better on March')")
    query(versions, "select relief.rollback('orders', 'too many alarms')")
    query(versions, "select relief.retire('orders', 4, 'trained on a bad day')")
    query(versions, "select relief.promote('orders', 2, true, 'March again')")
    today = value(versions, "select retired_at::date::text from relief.model where version = 4")
    assert query(versions, LOG) == [
        ("promote", 1, None, {"previous": None}),
        ("promote", 2, "better on March", {"previous": 1}),
        ("rollback", 1, "too many alarms", {"previous": 2}),
        ("retire", 4, "trained on a bad day", None),
        ("promote", 2, "March again", {"previous": 1, "forced": [f"it was retired on {today}"]}),
    ]


def test_force_without_anything_to_overrule_is_not_logged_as_such(versions: Connection) -> None:
    query(versions, "select relief.promote('orders', 1, force => true)")
    assert query(versions, LOG) == [("promote", 1, None, {"previous": None})]


UNPROVEN = {**stump(FEATURES), "parity": None}
WRONG = proven(stump(FEATURES))
WRONG = {**WRONG, "parity": {**WRONG["parity"], "probes": [{"numbers": [-1, 0], "categories": [], "score": 0.25}]}}
NEVER_MISSING = copy_of(WRONG)
NEVER_MISSING["parity"]["probes"] = [{"numbers": [None, None], "categories": [], "score": 0.5}]


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (UNPROVEN, "its document tells of no comparison with scikit-learn"),
        (WRONG, "it gives a row the score 0.5 that had 0.25 by scikit-learn"),
        (NEVER_MISSING, "it gives a row the score None that had 0.5 by scikit-learn"),
    ],
)
def test_a_model_not_proven_to_score_as_scikit_learn_does_is_promoted_by_force_alone(
    orders: Connection, document: dict[str, Any], problem: str
) -> None:
    add_model(orders, "orders", document)
    hint = "Train another: relief train orders, or promote it nevertheless: select relief.promote('orders', 1, force"
    with refused("55000", f'version 1 of detector "orders" fails its check: {problem}', hint):
        query(orders, "select relief.promote('orders')")
    assert query(orders, STAGES) == [(1, "candidate")]
    query(orders, "select relief.promote('orders', force => true, reason => 'made by hand')")
    assert query(orders, LOG) == [("promote", 1, "made by hand", {"previous": None, "forced": [problem]})]


def test_a_forest_that_is_not_that_of_its_document_fails_the_check(versions: Connection) -> None:
    query(versions, "alter table relief.model disable trigger check_model")
    query(
        versions,
        "update relief.model as m set forest = other.forest, forest_checksum = other.forest_checksum "
        "from relief.model as other where m.version = 1 and other.version = 2",
    )
    with refused("55000", 'version 1 of detector "orders" fails its check: its packed forest is not that of its doc'):
        _promote(versions, 1)
    # The checksum of the document, behind the name of the format, with what another one was packed into.
    query(
        versions,
        "update relief.model as m set explainer = overlay(other.explainer placing m.checksum::bytea from 20 for 64) "
        "from relief.model as other where m.version = 3 and other.version = 4",
    )
    with refused("55000", 'version 3 of detector "orders" fails its check: its packed explainer is not that of its do'):
        _promote(versions, 3)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("forest = substr(forest, 1, 40)", "packed forest has checksum "),
        ("forest_checksum = checksum", "packed forest has checksum "),
        ("explainer = set_byte(explainer, 200, 255 - get_byte(explainer, 200))", "packed explainer has checksum "),
        ("explainer = ''", "packed explainer has an unknown format"),
    ],
)
def test_what_is_damaged_of_a_models_packed_forms_is_told_and_made_anew(
    versions: Connection, damage: str, problem: str
) -> None:
    whole = query(versions, "select forest, forest_checksum, explainer from relief.model order by version")
    _promote(versions, 1)
    query(versions, "alter table relief.model disable trigger check_model")
    query(versions, f"update relief.model set {damage} where version <= 2")
    query(versions, "alter table relief.model enable trigger check_model")
    mended_by = "select relief.regenerate('orders');"
    (told_by_check,) = query(versions, "select result from relief.check() where \"check\" = 'detector orders'")
    assert told_by_check.startswith(f"version 1: {problem}")
    assert told_by_check.endswith(f"; {mended_by}")
    with pytest.raises(psycopg.Error) as refusal:
        _promote(versions, 2)
    assert refusal.value.sqlstate == "55000"
    message = refusal.value.diag.message_primary or ""
    assert message.startswith(f'version 2 of detector "orders" fails its check: {problem}')
    assert message.endswith(mended_by)
    query(versions, mended_by)
    assert query(versions, "select forest, forest_checksum, explainer from relief.model order by version") == whole
    assert value(versions, "select result from relief.check() where \"check\" = 'detector orders'") == "ok"
    _promote(versions, 2)


def test_owners_make_packed_forms_anew_and_nothing_else_of_them(attached_world: World) -> None:
    app = attached_world.app
    packed = query(app, "select forest, explainer from relief.model")
    query(app, "update relief.model set explainer = 'x'")
    assert query(app, "select forest, explainer from relief.model") == packed
    query(attached_world.mallory, "update relief.model set explainer = null")
    assert query(app, "select forest, explainer from relief.model") == packed
    with refused("42501", "permission denied for table model"):
        query(app, "update relief.model set forest = 'x'")


def test_a_model_trained_on_other_types_is_promoted_by_force_alone(versions: Connection) -> None:
    query(versions, "alter table shop.orders alter column a type bigint")
    now = "column a of table shop.orders is of type bigint, not integer as when the detector was made; select relief."
    with refused("55000", f'version 4 of detector "orders" fails its check: {now}'):
        query(versions, "select relief.promote('orders')")
    query(versions, "select relief.regenerate('orders')")
    then = "column a of table shop.orders was of type integer when it was trained, and is of type bigint"
    with refused("55000", f'version 4 of detector "orders" fails its check: {then}'):
        query(versions, "select relief.promote('orders')")
    add_model(versions, "orders", constant(FEATURES, 0.5, 0.9))
    assert value(versions, "select relief.promote('orders')") == 5
    query(versions, "select relief.promote('orders', 4, force => true)")
    assert query(versions, INSERT) == [4]


def test_a_column_renamed_and_followed_is_as_it_was_trained(versions: Connection) -> None:
    query(versions, "alter table shop.orders rename column a to amount")
    with refused("55000", 'version 4 of detector "orders" fails its check: column a of table shop.orders is called'):
        query(versions, "select relief.promote('orders')")
    query(versions, "select relief.regenerate('orders')")
    assert value(versions, "select relief.promote('orders')") == 4


def test_all_that_speaks_against_a_version_is_told(versions: Connection) -> None:
    add_model(versions, "orders", UNPROVEN)
    query(versions, "select relief.retire('orders', 5)")
    query(versions, "alter table shop.orders alter column a type bigint")
    query(versions, "select relief.regenerate('orders')")
    with pytest.raises(psycopg.Error) as refusal:
        _promote(versions, 5)
    detail = (refusal.value.diag.message_detail or "").splitlines()
    assert [line[:20] for line in detail] == ["it was retired on 20", "its document tells o", "column a of table sh"]


def test_a_model_with_other_features_is_refused_by_force_too(orders: Connection) -> None:
    query(orders, "create table shop.other (x float8)")
    query(orders, "select relief.create_detector('other', 'shop.other', '{x}')")
    add_model(orders, "other", stump(["x"]))
    query(
        orders,
        "insert into relief.model (detector_id, version, document, checksum) "
        "select d.id, 1, m.document, m.checksum from relief.model as m, relief.detector as d where d.name = 'orders'",
    )
    with refused("55000", "version 1 takes the features {x}", "relief train orders"):
        query(orders, "select relief.promote('orders', force => true)")


def test_rollback_warns_of_what_speaks_against_the_version_and_does_it(versions: Connection) -> None:
    add_model(versions, "orders", UNPROVEN)
    query(versions, "select relief.promote('orders', 5, force => true)")
    _promote(versions, 1)
    assert told(versions, "select relief.rollback('orders')") == [
        'version 5 of detector "orders" fails its check: its document tells of no comparison with scikit-learn'
    ]
    assert query(versions, INSERT) == [5]


def test_a_stage_is_changed_without_packing_the_forest_again(versions: Connection) -> None:
    _promote(versions, 1, 2)
    query(
        versions,
        "create or replace function relief._pack(started text, checksum text, document text) returns bytea "
        "language plpgsql as $$ begin raise exception 'packed'; end $$",
    )
    with refused(message="packed"):
        query(versions, "update relief.model set document = document where version = 1")
    query(versions, "select relief.retire('orders', 4)")
    query(versions, "select relief.rollback('orders')")


def test_the_owner_of_the_table_decides_on_the_life_of_its_models(attached_world: World) -> None:
    app, mallory = attached_world.app, attached_world.mallory
    add_model(app, "orders", stump(FEATURES))
    for statement in ("select relief.rollback('orders')", "select relief.retire('orders', 2)"):
        with refused("42704", 'detector "orders" does not exist', "detectors of tables that you own"):
            query(mallory, statement)
        for role in (attached_world.user, attached_world.scorer):
            with refused("42501"):
                query(role, statement)
    assert query(mallory, STAGES) == []
    _promote(app, 2)
    assert _rollback(app) == 1
    assert query(app, STAGES) == [(1, "promoted"), (2, "retired")]
