-- Allowance: how many events a session may leave. Counted in the session's memory, as a counter in a shared row would have sessions
-- wait for each other; what is over is counted too, and told in one event of the transaction, a summary.

create function relief._spend(started text, key text, transaction text, moment double precision, per_second integer)
  returns bigint
  language plpython3u
  cost 50
as $python$
    return GD["{{runtime_key}}"].spend(key, transaction, moment, per_second)
$python$;
comment on function relief._spend(text, text, text, double precision, integer) is
  'Takes one event off this session''s allowance: returns 0; or, where nothing is left, counts the row and returns the number of the '
  'summary that stands for it, -1 as long as there is none.';

create function relief._note_summary(started text, key text, summary bigint)
  returns void
  language plpython3u
  cost 50
as $python$
    GD["{{runtime_key}}"].note_summary(key, summary)
$python$;
comment on function relief._note_summary(text, text, bigint) is 'Notes in this session which event stands for the rows over its allowance.';

create function relief._settle_summary(started text, key text)
  returns bigint
  language plpython3u
  cost 50
as $python$
    return GD["{{runtime_key}}"].settle_summary(key)
$python$;
comment on function relief._settle_summary(text, text) is
  'Returns how many rows of a kind are over this session''s allowance, and counts anew; NULL if there are none.';

create function relief._allowance(detector text, reason text)
  returns text
  language sql
  immutable
return case when reason is null then 'anomaly ' else 'failure ' end || detector;
comment on function relief._allowance(text, text) is 'Returns the key of a detector''s allowance: failures have one, anomalies another.';

create function relief._is_told(detector text, relation regclass, reason text, per_second integer, channel text)
  returns boolean
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  -- By the time at which the transaction began: what it leaves is seen at one moment, its commit, however long it takes.
  moment constant double precision := extract(epoch from now());
  transaction constant text := pg_current_xact_id();
  key constant text := relief._allowance(detector, reason);
  summary bigint := relief._spend(relief._start(), key, transaction, moment, per_second);
begin
  if summary = 0 then
    return true;
  end if;
  -- A savepoint that was rolled back may have taken the summary with it.
  if summary < 0 or not exists (select from relief.event as e where e.id = summary) then
    insert into relief.event as e (detector, relation, error, is_summary, sentence)
    values (detector, relation, left(reason, 2000), true,
            format('more than %s a second or in a transaction: these rows are not told one by one', per_second))
    returning e.id into summary;
    perform relief._note_summary(relief._start(), key, summary);
    if channel is not null and reason is null and relief._spend(relief._start(), 'summary ' || detector, transaction, moment, 1) = 0 then
      perform pg_notify(channel, relief._notification(jsonb_build_object('event', summary, 'detector', detector, 'is_summary', true)));
    end if;
  end if;
  return false;
end
$$;
comment on function relief._is_told(text, regclass, text, integer, text) is
  'Returns whether an anomaly, or a row that failed for a reason, may have an event of its own; if not, it is counted in a summary.';

create function relief._settle_event()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  counted constant bigint := relief._settle_summary(relief._start(), relief._allowance(new.detector, new.error));
begin
  if counted is not null then
    update relief.event as e set rows = counted where e.id = new.id;
  end if;
  return null;
end
$$;
comment on function relief._settle_event() is 'Writes into a summary, as its transaction ends, how many rows it stands for.';
