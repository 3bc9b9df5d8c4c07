-- Rights: none for PUBLIC but on what generated functions call; the rest is granted by two verbs.

create function relief._require_role(role regrole)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._require_primary();
  if role is null then
    raise exception 'the role is NULL'
      using errcode = 'null_value_not_allowed', hint = format('Name a role that is there, such as %L.', current_user);
  end if;
end
$$;
comment on function relief._require_role(regrole) is 'Raises an error on a standby, or where no role is given to grant rights to.';

create function relief.grant_usage(role regrole)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._require_role(role);
  perform relief._lock_catalog();
  execute format('grant usage on schema relief to %s', role);
  execute format('grant execute on function relief.score(text, jsonb), relief.detect(text, jsonb), relief._find(text), '
                 'relief.explain(text, jsonb), relief._require_columns(relief._target, jsonb), relief._table_changed(), '
                 'relief._raise_no_detector(text) to %s', role);
end
$$;
comment on function relief.grant_usage(regrole) is 'Lets a role score rows by a detector''s name: relief.score and relief.detect.';

create function relief.grant_admin(role regrole)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief.grant_usage(role);
  execute format('grant execute on all functions in schema relief to %s', role);
  execute format('grant execute on all procedures in schema relief to %s', role);
  execute format('revoke execute on function relief.grant_usage(regrole), relief.grant_admin(regrole), relief.grant_monitor(regrole), '
                 'relief.use_kernel(boolean) from %s', role);
  execute format('grant select on all tables in schema relief to %s', role);
  execute format('grant insert, delete on relief.detector, relief.model to %s', role);
  execute format('grant update (promoted_at, retired_at, explainer) on relief.model to %s', role);
  execute format('grant insert on relief.feature to %s', role);
  execute format('grant insert, update on relief.measured_drift to %s', role);
  execute format('grant insert, update, delete on relief.tolerance, relief.bucket, relief.profile, relief.refresh, relief.stale_day, relief.label, relief.shadow to %s', role);
  execute format('grant update (columns, transform, unit, origin, bin_width) on relief.feature to %s', role);
  execute format('grant update (relation, schema_name, table_name, columns, entity, time_column, attributes, attributes_of, partitions, promoted_version, generated_by, '
                 'mode, notify_columns, events_per_second) '
                 'on relief.detector to %s', role);
  -- Who asked for a job is who did: that column can't be given.
  execute format('grant insert (detector, kind, options, scheduled_for), delete on relief.job to %s', role);
  execute format('grant update (state, attempts, worker, backend, backend_started, started_at, finished_at, version, promoted, reason, error, hint) '
                 'on relief.job to %s', role);
  execute format('grant insert (detector, kind, cron, options, next_at), update (next_at), delete on relief.schedule to %s', role);
  -- To be passed on by attach: the trigger that records anomalies writes as the table's owner.
  execute format('grant usage on schema relief to %s with grant option', role);
  execute format('grant insert, select (id) on relief.event to %s with grant option', role);
  execute format('grant insert on relief.shadow_score to %s with grant option', role);
  execute format('grant insert (detector, detector_id, relation, key, row_values, model_version, score, severity, sentence), '
                 'select (id, detector_id, relation, created_by, releasing_in) on relief.quarantine to %s with grant option', role);
  execute format('grant insert, delete, update (seen, reading, confirmed, moved_at) on relief.subscription to %s', role);
  -- Who did it, and when, is what it is: those columns can't be given.
  execute format('grant insert (detector, relation, created_by, action, version, reason, details) on relief.audit to %s', role);
  execute format('grant insert, update on relief.retention to %s', role);
  execute format('grant delete on relief.audit to %s', role);
  -- Events outlive their detector; how long, their owner decides.
  execute format('grant delete on relief.event, relief.shadow_score to %s', role);
  execute format('grant update (relation, key, row_values, state, resolved_at, resolved_by, reason, releasing_in), delete on relief.quarantine to %s', role);
  execute format('grant execute on function relief._owns(oid, name), relief._is_told(text, regclass, text, integer, text), '
                 'relief._spend(text, text, text, double precision, integer), relief._note_summary(text, text, bigint), '
                 'relief._notification(jsonb), relief._row_values(anyelement), relief._companion_columns(), relief._allowance(text, text) to %s with grant option', role);
end
$$;
comment on function relief.grant_admin(regrole) is
  'Lets a role make, train, promote, attach and drop detectors, on those tables whose owner''s rights it has.';

create function relief.grant_monitor(role regrole)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform relief._require_role(role);
  if not pg_has_role(role, 'pg_read_all_stats', 'usage') then
    raise exception 'role "%" may not read the statistics of all tables', (select rolname from pg_roles where oid = role)
      using errcode = 'invalid_grant_operation', hint = format('First: grant pg_monitor to %s;', role);
  end if;
  perform relief._lock_catalog();
  execute format('grant usage on schema relief to %s', role);
  execute format('grant select on relief.metrics to %s', role);
  execute format('grant execute on function relief._health(integer), relief._owns(oid, name) to %s', role);
end
$$;
comment on function relief.grant_monitor(regrole) is
  'Lets a role that is a member of pg_monitor read relief.metrics of all detectors: numbers, no keys, no values.';

revoke execute on all functions in schema relief from public;
revoke execute on all procedures in schema relief from public;
grant execute on function
  relief._start(),
  relief._start_scoring(),
  relief._have(text),
  relief._fetch(text),
  relief._load(text, text, bytea),
  relief._have_rule(text, text),
  relief._fetch_with_rule(text, text, text),
  relief._load_rule(text, text, text),
  relief._have_telling(text),
  relief._fetch_telling(text, text),
  relief._load_telling(text, text, text),
  relief._have_explainer(text),
  relief._fetch_explainer(text),
  relief._load_explainer(text, text, bytea),
  relief._contributions(text, text, double precision[], text[]),
  relief._judge(text, text, text, double precision[], text[], text, double precision[], boolean),
  relief._explanation(text, text, double precision[], double precision[], text[], text, double precision[]),
  relief._levels(integer, text, smallint),
  relief._score(text, text, double precision[], text[]),
  relief._explainer(text),
  relief._pack_explainer(text, text, text),
  relief._document(text),
  relief._float8(numeric),
  relief._float8(double precision),
  relief._forest(text),
  relief._no_model(text),
  relief._shell_quoted(text)
  to public;
