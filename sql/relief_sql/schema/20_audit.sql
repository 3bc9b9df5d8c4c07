-- Audit: what was done to detectors, by whom, when and why. Appended to, never changed.

create table relief.audit (
  id          bigint generated always as identity primary key,
  detector    text not null,
  relation    regclass not null,
  created_by  name not null,
  action      text not null,
  version     integer,
  role        name not null default current_user,
  login       name not null default session_user,
  happened_at timestamptz not null default pg_catalog.clock_timestamp(),
  reason      text,
  details     jsonb
);
create index audit_detector_idx on relief.audit (detector, id);
comment on table relief.audit is 'What was done to detectors: every create, train, promote, attach and so on, with role, time and reason. Entries outlive their detector. Who may act on one may add entries of it by hand too, in no other''s name.';
comment on column relief.audit.created_by is 'The role that made the detector: the entries of a table that is gone are its.';
comment on column relief.audit.action is 'The verb: create, train, promote, attach, detach, drop, ...';
comment on column relief.audit.version is 'The version of the model that it was done to; NULL where it was done to the detector.';
comment on column relief.audit.role is 'Who did it: the role whose rights it took.';
comment on column relief.audit.login is 'As whom the session had logged in, before any SET ROLE.';
comment on column relief.audit.reason is 'What was given for a reason.';
comment on column relief.audit.details is 'What else is to be known, by the action.';

alter table relief.audit enable row level security;
create policy owner on relief.audit for select using (relief._owns(relation, created_by));
comment on policy owner on relief.audit is 'Whoever has the rights of the table''s owner.';
-- A detector shows itself to whoever may act on it alone: nobody writes of another's, in whatever name.
create policy own_detector on relief.audit for insert with check (exists (
  select from relief.detector as d
  where d.name = audit.detector and d.relation = audit.relation and d.created_by = audit.created_by));
comment on policy own_detector on relief.audit is 'Of those detectors alone on which one may act.';

create function relief._is_past_limit(entry relief.audit)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select entry.happened_at < now() - (relief._retention(entry.detector, entry.relation)).audit
$$;
comment on function relief._is_past_limit(relief.audit) is 'Whether an entry of the log is older than its detector keeps them.';

create policy past_limit on relief.audit for delete using (relief._owns(relation, created_by) and relief._is_past_limit(audit));
comment on policy past_limit on relief.audit is 'What is older than the detector''s limit goes, as by relief.vacuum; nothing else.';

create function relief._refuse_change_of_audit()
  returns trigger
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op = 'DELETE' and relief._is_past_limit(old) then
    return old;
  end if;
  raise exception 'entries of relief.audit cannot be changed or deleted'
    using errcode = 'insufficient_privilege', hint = 'What is past its limit goes by: select * from relief.vacuum();';
end
$$;
comment on function relief._refuse_change_of_audit() is 'Keeps what is in the log as it is, from superusers'' mistakes too.';

create trigger refuse_change
  before update or truncate on relief.audit
  for each statement execute function relief._refuse_change_of_audit();
comment on trigger refuse_change on relief.audit is 'The log is appended to, never changed.';
create trigger refuse_deletion
  before delete on relief.audit
  for each row execute function relief._refuse_change_of_audit();
comment on trigger refuse_deletion on relief.audit is 'What is past its limit may go.';

create function relief._audit(d relief.detector, action text, version integer default null, reason text default null, details jsonb default null)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- With the caller's rights, so that current_user is who does it. Role, login and time can't be given: nobody has the right to.
  insert into relief.audit (detector, relation, created_by, action, version, reason, details)
  values (d.name, d.relation, d.created_by, action, version, reason, details);
end
$$;
comment on function relief._audit(relief.detector, text, integer, text, jsonb) is
  'Appends to the log what the caller does to a detector, which must still be there. Called by what does it, in the same transaction.';
