-- What an upgrade from 0.1.0 to 0.2.0 can't take from schema/*.sql: changes of tables and types that were there, new columns in the order in
-- which they stand there, and drops of functions and views that CREATE OR REPLACE can't change. tests/test_upgrade.py tells what is lacking.

alter table relief.detector add column generated_by text;
create index event_happened_idx on relief.event using brin (happened_at);

-- Modes of attach.
alter table relief.detector
  add column mode text not null default 'flag',
  add column notify_columns name[] not null default '{}',
  add column events_per_second integer not null default 100,
  add constraint mode_is_known
    check (mode in ('flag', 'notify', 'quarantine', 'reject')),
  add constraint events_per_second_are_bounded
    check (events_per_second between 1 and 10000);

-- Events of rows that couldn't be scored, and of many at once.
alter table relief.event
  alter column verdict drop not null,
  add column error text,
  add column is_summary boolean not null default false,
  add column rows bigint not null default 1,
  add column scoring_ms double precision,
  add column quarantine_id bigint,
  add column transaction xid8 not null default pg_catalog.pg_current_xact_id(),
  add constraint rows_are_counted check (rows = 1 or is_summary);
create index event_transaction_idx on relief.event (detector, transaction);
-- A constraint trigger can't be replaced; its function is, further down.
create function relief._settle_event() returns trigger language plpgsql as 'begin return null; end';
create constraint trigger settle
  after insert on relief.event
  deferrable initially deferred
  for each row when (new.is_summary)
  execute function relief._settle_event();
alter table relief.event enable always trigger settle;
alter table relief.model
  add column column_types text[],
  add column promoted_at timestamptz,
  add column retired_at timestamptz,
  add column explainer bytea,
  alter column explainer set storage external;
-- When was not kept; what is promoted next has a way back to it.
update relief.model as m set promoted_at = m.created_at
from relief.detector as d where d.id = m.detector_id and d.promoted_version = m.version;

-- What explains is loaded packed. The parsed body of this one needs the function before, which is dropped next; it is replaced further down.
create or replace function relief._fetch_explainer(key text) returns text language sql stable parallel safe cost 10
  set search_path = pg_catalog, pg_temp return null::text;
