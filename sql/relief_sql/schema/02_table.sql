-- Tables: what is configured, and what was trained.

create table relief.detector (
  id               integer generated always as identity primary key,
  name             text not null unique,
  relation         regclass not null,
  schema_name      name not null,
  table_name       name not null,
  columns          name[] not null,
  arguments        name[] not null,
  attributes       jsonb not null default '{}',
  attributes_of    oid,
  partitions       regclass[] not null default '{}',
  time_column      name,
  time_zone        text not null,
  entity           name[] not null,
  season           text,
  contamination    double precision,
  threshold        double precision,
  on_error         text not null,
  verdict          text not null,
  deviation_threshold double precision not null,
  min_history      integer not null,
  profile_window   interval,
  refresh_lag      integer not null,
  score_function   boolean not null,
  promoted_version integer,
  created_at       timestamptz not null default pg_catalog.now(),
  created_by       name not null default current_user,
  generated_by     text,
  mode             text not null default 'flag',
  notify_columns   name[] not null default '{}',
  events_per_second integer not null default 100,
  constraint detector_name_is_an_identifier
    check (name <> '' and pg_catalog.octet_length(name) <= 63),
  constraint contamination_is_a_share_up_to_half
    check (contamination > 0 and contamination <= 0.5),
  constraint threshold_is_a_score
    check (threshold > 0 and threshold <= 1),
  constraint contamination_or_threshold
    check ((contamination is null) <> (threshold is null)),
  constraint on_error_is_pass_or_raise
    check (on_error in ('pass', 'raise')),
  constraint season_is_known
    check (season in ('hour_of_day', 'day_of_week', 'hour_of_week')),
  constraint season_needs_a_time_column
    check (season is null or time_column is not null),
  constraint verdict_is_known
    check (verdict in ('score', 'deviation', 'either', 'both')),
  constraint deviation_threshold_is_positive
    check (deviation_threshold > 0),
  constraint min_history_is_at_least_two
    check (min_history >= 2),
  constraint profile_window_is_positive
    check (profile_window > interval '0'),
  constraint refresh_lag_is_not_negative
    check (refresh_lag >= 0),
  constraint mode_is_known
    check (mode in ('flag', 'notify', 'quarantine', 'reject')),
  constraint events_per_second_are_bounded
    check (events_per_second between 1 and 10000)
);
comment on table relief.detector is 'A named configuration: one table, its features, how many anomalies to expect, what to do on failure.';
comment on column relief.detector.schema_name is 'Where the relation was when the detector was made: a regclass loses its name with its table.';
comment on column relief.detector.table_name is 'See schema_name.';
comment on column relief.detector.columns is 'The columns that the features read, in the order of the arguments of the features function.';
comment on column relief.detector.arguments is 'The names of the arguments: what the columns were called when the detector was made.';
comment on column relief.detector.attributes is 'The numbers of the table''s columns, by name: so a renamed one is found again.';
comment on column relief.detector.attributes_of is
  'The relation that attributes numbers, as a number: of a table that was restored from a dump they tell nothing.';
comment on column relief.detector.partitions is 'Partitions of which all rows were seen by the trigger or a backfill; see relief._note_partitions.';
comment on column relief.detector.time_column is 'The column that tells when a row happened; relief train --since compares with it.';
comment on column relief.detector.time_zone is 'In which days begin and hours count, where time_column is a timestamptz.';
comment on column relief.detector.entity is 'The columns that name the thing a row is about; it is compared with its own history.';
comment on column relief.detector.season is 'hour_of_day, day_of_week or hour_of_week: rows are compared with history of the same season.';
comment on column relief.detector.verdict is
  'What makes a row an anomaly: its score, its deviation, either, or both.';
comment on column relief.detector.deviation_threshold is
  'How many standard deviations, by mean and by median, a feature must lie from its history to count.';
comment on column relief.detector.min_history is 'With fewer values an entity is judged by the next coarser level.';
comment on column relief.detector.profile_window is 'How far back the profile reaches, from the newest row; NULL: to the beginning.';
comment on column relief.detector.refresh_lag is 'Days before the newest that a refresh makes again, for rows that commit late.';
comment on column relief.detector.contamination is 'The share of training rows that is to be flagged; the threshold follows from it.';
comment on column relief.detector.threshold is 'A fixed score from which a row is an anomaly; instead of contamination.';
comment on column relief.detector.on_error is 'What the trigger does with a row that cannot be scored: pass it with a NULL score, or raise the error.';
comment on column relief.detector.score_function is 'Whether relief_score(row) in the table''s schema is this detector''s.';
comment on column relief.detector.generated_by is 'The version of Relief that made its functions; NULL for 0.1.0, which didn''t note it.';
comment on column relief.detector.mode is 'What attach does with an anomaly that is inserted: flag it, notify of it, hold it in quarantine, or reject it.';
comment on column relief.detector.notify_columns is 'In mode notify, the columns that a notification holds beside the primary key.';
comment on column relief.detector.events_per_second is 'How many events a session may leave a second, and in a transaction; the rest is told in one.';
comment on column relief.detector.promoted_version is 'The version that scores; no foreign key, since a circle of them breaks pg_restore.';

create table relief.feature (
  detector_id integer not null references relief.detector on delete cascade,
  position    integer not null,
  name        text not null,
  expression  text not null,
  columns     name[] not null,
  part        integer not null,
  kind        text not null default 'number',
  scale       text not null default 'auto',
  transform   text,
  unit        double precision,
  origin      double precision,
  bin_width   double precision,
  primary key (detector_id, position),
  unique (detector_id, name),
  constraint kind_is_number_or_category check (kind in ('number', 'category')),
  constraint scale_is_known check (scale in ('auto', 'linear', 'log')),
  constraint transform_is_known check (transform in ('linear', 'log'))
);
comment on column relief.feature.columns is 'The columns that the expression reads.';
comment on column relief.feature.part is 'Which of the detector''s features functions computes it: each takes at most 100 columns.';
comment on column relief.feature.kind is 'A number, or a category that is compared by how rare it is.';
comment on column relief.feature.scale is 'On what scale the profile compares: linear, log (for positive numbers that vary by factors), or chosen by the data.';
comment on column relief.feature.transform is 'The scale in use: linear, or log, where x stands at asinh(x / unit). Set by the first refresh or training that sees a value.';
comment on column relief.feature.unit is 'What the logarithmic scale takes for small.';
comment on column relief.feature.origin is 'The place on the scale from which figures are counted, so that none far from zero loses precision.';
comment on column relief.feature.bin_width is 'Width of a histogram bin on the scale: the precision of medians and quantiles.';

create table relief.tolerance (
  detector_id  integer not null references relief.detector on delete cascade,
  feature      text not null,
  entity       text not null,
  direction    text not null,
  min_absolute double precision not null,
  min_relative double precision not null,
  primary key (detector_id, feature, entity),
  constraint direction_is_known check (direction in ('up', 'down', 'both')),
  constraint minima_are_not_negative check (min_absolute >= 0 and min_relative >= 0)
);
comment on table relief.tolerance is 'Departures of a feature that never make an anomaly by themselves, however many standard deviations they are.';
comment on column relief.tolerance.entity is 'The entity''s key as a JSON array; empty for all that have no row of their own.';
comment on column relief.tolerance.direction is 'Whether departures up, down, or both count.';
comment on column relief.tolerance.min_absolute is 'A departure smaller than this doesn''t count.';
comment on column relief.tolerance.min_relative is 'A departure smaller than this share of the expected value doesn''t count.';
comment on table relief.feature is 'The features of a detector, in the order in which models take them.';
comment on column relief.feature.expression is
  'For people to read. What is computed is the features function alone; this text is never executed again.';

create table relief.model (
  id               integer generated always as identity primary key,
  detector_id      integer not null references relief.detector on delete cascade,
  version          integer not null,
  document         text not null,
  checksum         text not null,
  forest           bytea not null,
  forest_checksum  text not null,
  threshold        double precision not null,
  threshold_origin text not null,
  features         text[] not null,
  created_at       timestamptz not null default pg_catalog.now(),
  created_by       name not null default current_user,
  column_types     text[],
  promoted_at      timestamptz,
  retired_at       timestamptz,
  explainer        bytea,
  unique (detector_id, version),
  constraint version_counts_from_one check (version >= 1),
  constraint threshold_is_a_score check (threshold >= 0 and threshold <= 1)
);
-- A session's first score reads a forest: it isn't compressed, which would take longer to undo than to read.
alter table relief.model alter column forest set storage external, alter column explainer set storage external;
create index model_checksum_idx on relief.model (checksum);
create index model_forest_checksum_idx on relief.model (forest_checksum);
comment on table relief.model is 'One fitted forest a row, immutable but for its stage, numbered 1, 2, 3... within its detector.';
comment on column relief.model.document is 'The model document: JSON with a format number, validated wholly before it is stored.';
comment on column relief.model.checksum is 'SHA-256 of the document.';
comment on column relief.model.forest is 'The document''s forest, packed: what a session scores with. Made from the document, always.';
comment on column relief.model.forest_checksum is 'SHA-256 of the packed forest, its key in a session''s memory.';
comment on column relief.model.threshold is 'The score from which a row is an anomaly; taken from the document.';
comment on column relief.model.threshold_origin is 'Where the threshold came from: contamination or fixed; taken from the document.';
comment on column relief.model.features is 'The names of the features that the model takes, in order; taken from the document.';
comment on column relief.model.column_types is 'Of what types the columns of relief.detector.columns were when the model was stored.';
comment on column relief.model.promoted_at is 'When it was last made the one that scores; no two of a detector at the same time.';
comment on column relief.model.retired_at is 'When it was put out of service, by relief.retire or relief.rollback.';

comment on column relief.model.explainer is
  'The forest with the expected path length of each node, packed: what a session explains with. Made from the document, always; NULL in models of 0.1.0.';

-- Rows of a detector belong to whoever has the rights of the table's owner; of a table that is gone, to whoever made the detector.

create function relief._owns(relation oid, created_by name)
  returns boolean
  language sql
  stable
  parallel safe
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
    (select pg_has_role(current_user, relowner, 'usage') from pg_class where oid = relation),
    (select pg_has_role(current_user, oid, 'usage') from pg_roles where rolname = created_by),
    false)
$$;
comment on function relief._owns(oid, name) is
  'Whether the current role has the rights of the relation''s owner or, where the relation is gone, of the role that made the detector.';

alter table relief.detector enable row level security;
create policy owner on relief.detector using (relief._owns(relation, created_by));
comment on policy owner on relief.detector is 'Whoever has the rights of the table''s owner.';

alter table relief.feature enable row level security;
create policy owner on relief.feature using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.feature is 'Follows the detector.';

alter table relief.tolerance enable row level security;
create policy owner on relief.tolerance using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.tolerance is 'Follows the detector.';

alter table relief.model enable row level security;
create policy owner on relief.model using (exists (select from relief.detector as d where d.id = detector_id));
comment on policy owner on relief.model is 'Follows the detector.';

create function relief._document(key text)
  returns text
  language sql
  stable
  strict
  security definer
  parallel safe
  cost 1
  set search_path = pg_catalog, pg_temp
as $$
  select document from relief.model where checksum = key limit 1
$$;
comment on function relief._document(text) is 'Returns the model document with this checksum. Who can name the checksum may score with the model.';

create function relief._explainer(key text)
  returns bytea
  language sql
  stable
  strict
  security definer
  parallel safe
  cost 1
  set search_path = pg_catalog, pg_temp
as $$
  select explainer from relief.model where checksum = key limit 1
$$;
comment on function relief._explainer(text) is 'Returns the packed explainer of the model with this checksum. Who can name the checksum may score with the model.';

create function relief._forest(key text)
  returns bytea
  language sql
  stable
  strict
  security definer
  parallel safe
  cost 1
  set search_path = pg_catalog, pg_temp
as $$
  select forest from relief.model where forest_checksum = key limit 1
$$;
comment on function relief._forest(text) is 'Returns the packed forest with this checksum. Who can name the checksum may score with the model.';

-- Parsed bodies, as their callers need no right on schema relief; with a setting, which keeps them out of their callers: what is
-- rarely called is not to be prepared for in every transaction.

create function relief._fetch(key text)
  returns text
  language sql
  stable
  parallel safe
  cost 10
  set search_path = pg_catalog, pg_temp
return relief._load(relief._start_scoring(), key, relief._forest(key));
comment on function relief._fetch(text) is 'Brings a model into this session and returns an empty text.';

create function relief._fetch_with_rule(key text, rule_key text, rule text)
  returns text
  language sql
  stable
  parallel safe
  cost 10
  set search_path = pg_catalog, pg_temp
return relief._load_rule(rule_key, rule, coalesce(relief._have(key), relief._fetch(key)));
comment on function relief._fetch_with_rule(text, text, text) is 'Brings a model and a rule into this session and returns an empty text.';

create function relief._fetch_telling(rule_key text, rule text)
  returns text
  language sql
  stable
  parallel safe
  cost 10
  set search_path = pg_catalog, pg_temp
return relief._load_telling(relief._start(), rule_key, rule);
comment on function relief._fetch_telling(text, text) is 'Brings a rule to tell by into this session and returns an empty text.';

create function relief._fetch_explainer(key text)
  returns text
  language sql
  stable
  parallel safe
  cost 10
  set search_path = pg_catalog, pg_temp
return relief._load_explainer(
  relief._start(), key, coalesce(relief._explainer(key), relief._pack_explainer(relief._start(), key, relief._document(key))));
comment on function relief._fetch_explainer(text) is 'Brings what explains a model''s scores into this session and returns an empty text.';

create function relief._check_model()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  content jsonb;
  message text;
  advice text;
begin
  begin
    new.forest := relief._pack(relief._start(), new.checksum, new.document);
    new.forest_checksum := encode(sha256(new.forest), 'hex');
    new.explainer := relief._pack_explainer(relief._start(), new.checksum, new.document);
  exception when invalid_parameter_value or program_limit_exceeded or out_of_memory then
    -- PL/Python puts the name of its exception before what it says, and doesn't know for which detector the document is.
    get stacked diagnostics message = message_text, advice = pg_exception_hint;
    raise exception '%', regexp_replace(message, '^plpy[.]Error: ', '')
      using errcode = sqlstate,
            hint = replace(coalesce(nullif(advice, ''), 'Free memory on the server, or train a smaller forest: relief train <detector> --trees 50'),
                           '<detector>',
                           coalesce(relief._shell_quoted((select d.name from relief.detector as d where d.id = new.detector_id)), '<detector>'));
  end;
  content := new.document;
  new.threshold := content #>> '{threshold,value}';
  new.threshold_origin := content #>> '{threshold,origin}';
  new.features := array(select feature ->> 'name' from jsonb_array_elements(content -> 'features') with ordinality as f (feature, n) order by n);
  return new;
end
$$;
comment on function relief._check_model() is 'Refuses a document that cannot be scored with, and takes the columns beside it from the document.';

-- A stage changes nothing that is in the document: packing that again would take longer than a promotion.
create trigger check_model
  before insert or update of document, checksum, forest, forest_checksum, explainer, threshold, threshold_origin, features on relief.model
  for each row execute function relief._check_model();
comment on trigger check_model on relief.model is 'No model is stored that the runtime has not validated wholly.';
