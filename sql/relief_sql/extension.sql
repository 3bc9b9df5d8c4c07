-- Only as an extension: what pg_dump is to save of the configuration, sequences included.

select pg_catalog.pg_extension_config_dump('relief.detector', '');
select pg_catalog.pg_extension_config_dump('relief.detector_id_seq', '');
select pg_catalog.pg_extension_config_dump('relief.feature', '');
select pg_catalog.pg_extension_config_dump('relief.model', '');
select pg_catalog.pg_extension_config_dump('relief.model_id_seq', '');
select pg_catalog.pg_extension_config_dump('relief.profile', '');
select pg_catalog.pg_extension_config_dump('relief.tolerance', '');
select pg_catalog.pg_extension_config_dump('relief.bucket', '');
select pg_catalog.pg_extension_config_dump('relief.refresh', '');
select pg_catalog.pg_extension_config_dump('relief.stale_day', '');
select pg_catalog.pg_extension_config_dump('relief.label', '');
select pg_catalog.pg_extension_config_dump('relief.event', '');
select pg_catalog.pg_extension_config_dump('relief.event_id_seq', '');
select pg_catalog.pg_extension_config_dump('relief.retention', '');
select pg_catalog.pg_extension_config_dump('relief.audit', '');
select pg_catalog.pg_extension_config_dump('relief.audit_id_seq', '');
select pg_catalog.pg_extension_config_dump('relief.measured_drift', '');
select pg_catalog.pg_extension_config_dump('relief.job', '');
select pg_catalog.pg_extension_config_dump('relief.job_id_seq', '');
select pg_catalog.pg_extension_config_dump('relief.schedule', '');
select pg_catalog.pg_extension_config_dump('relief.quarantine', '');
select pg_catalog.pg_extension_config_dump('relief.quarantine_id_seq', '');
select pg_catalog.pg_extension_config_dump('relief.subscription', '');
select pg_catalog.pg_extension_config_dump('relief.shadow', '');
select pg_catalog.pg_extension_config_dump('relief.shadow_score', '');
select pg_catalog.pg_extension_config_dump('relief.shadow_score_id_seq', '');
