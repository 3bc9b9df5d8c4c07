"""The expectations of the rights matrix: a line for each function, table, view and generated object.

Seven roles try each of them: a superuser; the table's owner, who is admin of Relief; an admin without the owner's
rights; a user, who may score by name; a writer, who has rights on the table alone; a stranger, who has none; a monitor,
who may read the metrics of all.
"""

from __future__ import annotations

ROLES = ("superuser", "owner", "admin", "user", "writer", "stranger", "monitor")

# What comes of an attempt; a refusal by what the server says: SQLSTATE, and a part of the message.
WORKS = "works"
FORBIDDEN = "forbidden"
UNSEEN = "unseen"
NOT_THE_OWNER = "not the owner"
NOT_AS_SUPERUSER = "not as superuser"
WITHOUT_CRON = "without pg_cron"
NO_SUCH_JOB = "no such job"
UNSEEN_ROW = "unseen row"
REFUSALS = {
    FORBIDDEN: ("42501", "permission denied for "),
    UNSEEN: ("42704", 'detector "orders" does not exist'),
    NOT_THE_OWNER: ("42501", "must be owner of table"),
    NOT_AS_SUPERUSER: ("42501", "is a superuser, and table shop.orders belongs to"),
    WITHOUT_CRON: ("0A000", "pg_cron is not installed"),
    NO_SUCH_JOB: ("42704", "job "),
    UNSEEN_ROW: ("P0002", " 1 "),
}


def who(*outcomes: str) -> dict[str, str]:
    """Return the outcome for each role; for those that aren't given it is forbidden."""
    return dict(zip(ROLES, outcomes + (FORBIDDEN,) * (len(ROLES) - len(outcomes)), strict=True))


OF_OWNERS = who(WORKS, WORKS, UNSEEN)
OF_OWNERS_AS_THEMSELVES = who(NOT_AS_SUPERUSER, WORKS, UNSEEN)
OF_ADMINS = who(WORKS, WORKS, WORKS)
OF_USERS = who(WORKS, WORKS, WORKS, WORKS)
OF_SUPERUSERS = who(WORKS)
OF_THE_TABLES_OWNER = who(WORKS, WORKS)
BESIDE_THE_TABLE = who(WORKS, WORKS, WORKS, WORKS, WORKS)

# Each public function and procedure: how to call it such that it works for the owner of shop.orders, and who may.
# An overloaded one has a line for each of its signatures, as regprocedure writes them.
FUNCTIONS = {
    "add_model": ("select relief.add_model('orders', %(document)s, %(checksum)s)", OF_OWNERS),
    "attach": ("select relief.detach('orders'), relief.attach('orders')", OF_OWNERS),
    "backfill": ("call relief.backfill('orders')", OF_OWNERS),
    "backtest": ("select * from relief.backtest('orders')", OF_OWNERS_AS_THEMSELVES),
    "cancel_job": ("select relief.cancel_job(min(id)) from relief.job", who(WORKS, WORKS, NO_SUCH_JOB)),
    "confirm": (
        "select relief.confirm('orders', 'mailer', batch, event) from relief.next_events('orders', 'mailer')",
        OF_OWNERS,
    ),
    "channel": ("select relief.channel('orders')", OF_ADMINS),
    "check": ("select * from relief.check()", OF_ADMINS),
    "create_detector": (
        "select relief.create_detector('more', 'shop.orders', '{a}', score_function => false)",
        who(WORKS, WORKS, NOT_THE_OWNER),
    ),
    "detach": ("select relief.detach('orders')", OF_OWNERS),
    "detect": ("""select * from relief.detect('orders', '{"a": -2, "b": 1}')""", OF_USERS),
    "discard": ("select relief.discard(1)", who(WORKS, WORKS, UNSEEN_ROW)),
    "drift": ("select * from relief.drift('orders')", OF_OWNERS_AS_THEMSELVES),
    "drop_detector": (
        "select (select count(relief.discard(id)) from relief.quarantine), relief.drop_detector('orders')",
        OF_OWNERS,
    ),
    "explain": ("""select * from relief.explain('orders', '{"a": -2, "b": 1}')""", OF_USERS),
    "grant_admin": ("select relief.grant_admin(%(role)s)", OF_SUPERUSERS),
    "grant_monitor": ("select relief.grant_monitor('pg_monitor')", OF_SUPERUSERS),
    "grant_usage": ("select relief.grant_usage(%(role)s)", OF_SUPERUSERS),
    "label": ("""select relief.label('orders', '{"id": 1}', true)""", OF_OWNERS),
    "label_event": ("select relief.label_event(1, false)", who(WORKS, WORKS, UNSEEN_ROW)),
    "measure_drift": ("select * from relief.measure_drift('orders')", OF_OWNERS_AS_THEMSELVES),
    "next_events": ("select * from relief.next_events('orders', 'mailer')", OF_OWNERS),
    "promote": ("select relief.promote('orders')", OF_OWNERS),
    "refresh_profile": ("select relief.refresh_profile('orders')", OF_OWNERS_AS_THEMSELVES),
    "regenerate": ("select relief.regenerate('orders')", OF_OWNERS),
    "request_training": ("select relief.request_training('orders')", OF_OWNERS),
    "schedule": ("select * from relief.schedule('orders', train => '0 3 * * *')", OF_OWNERS),
    "release": ("select relief.release(1)", who(NOT_AS_SUPERUSER, WORKS, UNSEEN_ROW)),
    "retire": ("select relief.retire('orders', 1)", OF_OWNERS),
    "rollback": ("select relief.rollback('orders')", OF_OWNERS),
    "schedule_refresh": ("select relief.schedule_refresh('orders')", who(NOT_AS_SUPERUSER, WITHOUT_CRON, UNSEEN)),
    "set_retention": ("select relief.set_retention('orders', 1)", OF_OWNERS),
    "shadow": ("select relief.shadow('orders', 3), relief.shadow('orders', null)", OF_OWNERS),
    "shadow_report": ("select * from relief.shadow_report('orders')", OF_OWNERS),
    "score": ("""select relief.score('orders', '{"a": -2, "b": 1}')""", OF_USERS),
    "set_mode": ("select relief.set_mode('orders', 'reject')", OF_OWNERS),
    "set_threshold": ("select relief.set_threshold('orders', 0.5)", OF_OWNERS),
    "set_tolerance": ("select relief.set_tolerance('orders', 'a', 'up')", OF_OWNERS),
    "suggest_threshold": ("select * from relief.suggest_threshold('orders')", OF_OWNERS_AS_THEMSELVES),
    "vacuum": ("select relief.vacuum('orders')", OF_OWNERS),
    "subscribe": ("select relief.subscribe('orders', 'other')", OF_OWNERS),
    "suggest_features": ("select * from relief.suggest_features('shop.orders')", who(WORKS, WORKS, NOT_THE_OWNER)),
    "unsubscribe": ("select relief.unsubscribe('orders', 'mailer')", OF_OWNERS),
    "use_kernel": ("select relief.use_kernel(false)", OF_SUPERUSERS),
    "version": ("select relief.version()", OF_ADMINS),
}

# Private functions, whose names begin with _, are for admins alone, with the caller's rights; but for these.
# What generated functions call, with the rights of whoever scores:
OPEN_TO_ALL = {
    "relief._have(text)",
    "relief._have_rule(text,text)",
    "relief._start()",
    "relief._start_scoring()",
    "relief._fetch(text)",
    "relief._fetch_with_rule(text,text,text)",
    "relief._fetch_explainer(text)",
    "relief._load(text,text,bytea)",
    "relief._load_rule(text,text,text)",
    "relief._have_telling(text)",
    "relief._fetch_telling(text,text)",
    "relief._load_telling(text,text,text)",
    "relief._load_explainer(text,text,bytea)",
    "relief._score(text,text,double precision[],text[])",
    "relief._explainer(text)",
    "relief._pack_explainer(text,text,text)",
    "relief._document(text)",
    "relief._forest(text)",
    "relief._have_explainer(text)",
    "relief._contributions(text,text,double precision[],text[])",
    "relief._judge(text,text,text,double precision[],text[],text,double precision[],boolean)",
    "relief._explanation(text,text,double precision[],double precision[],text[],text,double precision[])",
    # The history of one entity, for the judgement functions: not to be listed, and by a detector's number alone.
    "relief._levels(integer,text,smallint)",
    # A pure function, where a feature is numeric.
    "relief._float8(numeric)",
    "relief._float8(double precision)",
    "relief._no_model(text)",
    # A pure function, for the hint of the one before.
    "relief._shell_quoted(text)",
}
# What scoring by name calls:
OPEN_TO_USERS = {
    "relief._find(text)",
    "relief._require_columns(relief._target,jsonb)",
    "relief._raise_no_detector(text)",
    "relief._table_changed()",
}
# What the view of metrics calls:
OPEN_TO_MONITORS = {"relief._health(integer)", "relief._owns(oid,name)"}

# What admins may do to the rows of own detectors in each table and view, beyond reading them. They see no others; roles
# that are no admins see and do nothing.
RELATIONS = {
    "anomaly": "",
    "audit": "insert (detector, relation, created_by, action, version, reason, details), delete",
    "bucket": "insert, update, delete",
    "detector": "insert, update (relation, schema_name, table_name, columns, attributes, attributes_of, partitions, "
    "time_column, entity, promoted_version, generated_by, mode, notify_columns, "
    "events_per_second), delete",
    "event": "insert, delete",
    "failure": "",
    "feature": "insert, update (columns, transform, unit, origin, bin_width)",
    "job": "insert (detector, kind, options, scheduled_for), update (state, attempts, worker, backend, "
    "backend_started, started_at, finished_at, version, promoted, reason, error, hint), delete",
    "label": "insert, update, delete",
    "measured_drift": "insert, update",
    "metrics": "",
    "model": "insert, update (promoted_at, retired_at, explainer), delete",
    "model_stage": "",
    "profile": "insert, update, delete",
    "quarantine": "insert (detector, detector_id, relation, key, row_values, model_version, score, severity, "
    "sentence), update (relation, key, row_values, state, resolved_at, resolved_by, reason, releasing_in), delete",
    "refresh": "insert, update, delete",
    "retention": "insert, update",
    "schedule": "insert (detector, kind, cron, options, next_at), update (next_at), delete",
    "shadow": "insert, update, delete",
    "shadow_score": "insert, delete",
    "stale_day": "insert, update, delete",
    "status": "",
    "subscription": "insert, update (seen, reading, confirmed, moved_at), delete",
    "tolerance": "insert, update, delete",
}
# Statements by which the owner brings a row into each of them; there is a model, and a detector attached.
FILLED = (
    "insert into relief.model (detector_id, version, document, checksum) "
    "select detector_id, n, document, checksum from relief.model, generate_series(2, 3) as n",
    "select relief.shadow('orders', 3)",
    "select relief.subscribe('orders', 'mailer')",
    "insert into shop.orders (a, b) values (-2, 1), (2, -6)",
    "select relief.set_mode('orders', 'quarantine')",
    "insert into shop.orders (a, b) values (-2, 1)",
    "select relief.set_mode('orders', 'flag')",
    "select relief.refresh_profile('orders')",
    "select relief.set_tolerance('orders', 'a')",
    """select relief.label('orders', '{"id": 1}', true), relief.label('orders', '{"id": 2}', false)""",
    "select relief.measure_drift('orders')",
    "select relief.request_training('orders')",
    "select relief.schedule('orders', train => '0 3 * * *')",
    "select relief.promote('orders', 2)",
    "select relief.set_retention('orders', 5)",
)

# What is made beside the table "orders", in a schema that all but the stranger may use.
GENERATED = {
    "_relief_contributions_orders": BESIDE_THE_TABLE,
    "_relief_event_orders": OF_THE_TABLES_OWNER,
    "_relief_explanation_orders": BESIDE_THE_TABLE,
    "_relief_features_orders": BESIDE_THE_TABLE,
    "_relief_guarded_orders": BESIDE_THE_TABLE,
    "_relief_judgement_orders": BESIDE_THE_TABLE,
    "_relief_shadow_orders": OF_THE_TABLES_OWNER,
    "_relief_trigger_orders": OF_THE_TABLES_OWNER,
    "_relief_verdict_orders": BESIDE_THE_TABLE,
    "relief_explain": BESIDE_THE_TABLE,
    "relief_score": BESIDE_THE_TABLE,
}
