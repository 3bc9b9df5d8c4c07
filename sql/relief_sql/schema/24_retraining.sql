-- Retraining: whether a detector is to be trained again, and whether the new version takes the promoted one's place; both are logged.

create function relief._whether_to_train(d relief.detector, if_drifted boolean, max_age interval, out train boolean, out reason text)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  drifted text;
  newest relief.model;
begin
  train := true;
  if if_drifted is not true and max_age is null then
    reason := 'asked for';
    return;
  end if;
  if d.promoted_version is null then
    reason := 'no model is promoted';
    return;
  end if;
  select * into newest from relief.model as m where m.detector_id = d.id order by m.version desc limit 1;
  if newest.created_at < now() - max_age then
    reason := format('version %s is of %s, older than %s', newest.version, newest.created_at::timestamptz(0), max_age);
    return;
  end if;
  if if_drifted then
    select string_agg(format('%s (psi %s)', f.feature, f.psi), ', ') into drifted from relief.measure_drift(d.name) as f where f.verdict like 'drifted%';
    if drifted is not null then
      reason := 'drifted: ' || drifted;
      return;
    end if;
  end if;
  train := false;
  reason := concat_ws('; ', case when if_drifted then 'no feature has drifted' end,
                      format('version %s is of %s', newest.version, newest.created_at::timestamptz(0))
                      || coalesce(', not older than ' || max_age, ''));
end
$$;
comment on function relief._whether_to_train(relief.detector, boolean, interval) is
  'Says whether drift, or the age of the newest model, asks for a training, and why.';

create function relief._consider_training(detector text, if_drifted boolean, max_age interval, out train boolean, out reason text)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._present_detector(detector);
begin
  perform relief._require_job_options(d.name, 'train', relief._training_options(false, false, if_drifted, max_age, '{}'));
  select w.train, w.reason into train, reason from relief._whether_to_train(d, if_drifted, max_age) as w;
  perform relief._audit(d, 'consider', d.promoted_version, reason, jsonb_build_object('train', train));
end
$$;
comment on function relief._consider_training(text, boolean, interval) is 'Decides whether to train, as relief._whether_to_train says, and logs it.';

create function relief._promote_if_better(detector text, version integer, out promoted boolean, out reason text)
  language plpgsql
  set search_path = pg_catalog, pg_temp
as $$
declare
  d constant relief.detector := relief._present_detector(detector);
  m constant relief.model := relief._model_of(d, version);
begin
  promoted := false;
  begin
    -- However well it compares, what promote refuses is not promoted: asked first, as what fails may not compare at all.
    perform relief._require_features(d, m);
    select format('version %s fails its check: %s', m.version, c.problem) into reason from relief._check_candidate(d, m) as c (problem) limit 1;
    if not found then
      select b.better, b.reason into promoted, reason from relief._better(d.name, m.version) as b;
      if promoted then
        perform relief.promote(d.name, m.version);
      end if;
    end if;
  exception when object_not_in_prerequisite_state then
    -- Also what has come about since, in the time that comparing takes.
    promoted := false;
    reason := sqlerrm;
  end;
  perform relief._audit(d, 'compare', m.version, reason, jsonb_build_object('better', promoted));
end
$$;
comment on function relief._promote_if_better(text, integer) is 'Promotes a version if relief._better says so, and logs why or why not.';
