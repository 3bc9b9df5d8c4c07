-- Rights: none for PUBLIC but on what generated functions call; the rest is granted by two verbs.

create function relief.grant_usage(role regrole)
  returns void
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
begin
  execute format('grant usage on schema relief to %s', role);
  execute format('grant execute on function relief.score(text, jsonb), relief.detect(text, jsonb), relief._find(text), '
                 'relief._require_columns(relief._target, jsonb), relief._column_list(regclass), relief._raise_no_detector(text) to %s', role);
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
  execute format('revoke execute on function relief.grant_usage(regrole), relief.grant_admin(regrole) from %s', role);
  execute format('grant select on relief.detector, relief.feature, relief.model, relief.profile to %s', role);
  execute format('grant insert, delete on relief.detector, relief.model to %s', role);
  execute format('grant insert on relief.feature, relief.profile to %s', role);
  execute format('grant update (promoted_version) on relief.detector to %s', role);
end
$$;
comment on function relief.grant_admin(regrole) is
  'Lets a role make, train, promote, attach and drop detectors, on those tables whose owner''s rights it has.';

revoke execute on all functions in schema relief from public;
revoke execute on all procedures in schema relief from public;
grant execute on function
  relief._have(text),
  relief._load(text, text),
  relief._score(text, text, double precision[], text[]),
  relief._document(text),
  relief._deviation(double precision, double precision, double precision),
  relief._no_model(text)
  to public;
