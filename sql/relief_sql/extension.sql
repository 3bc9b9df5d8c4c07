-- Only as an extension: what pg_dump is to save of the configuration, sequences included.

select pg_catalog.pg_extension_config_dump('relief.detector', '');
select pg_catalog.pg_extension_config_dump('relief.detector_id_seq', '');
select pg_catalog.pg_extension_config_dump('relief.feature', '');
select pg_catalog.pg_extension_config_dump('relief.model', '');
select pg_catalog.pg_extension_config_dump('relief.model_id_seq', '');
select pg_catalog.pg_extension_config_dump('relief.profile', '');
