-- What an upgrade from 0.1.0 to 0.2.0 can't take from schema/*.sql: changes of tables and types that were there, new columns in the order in
-- which they stand there, and drops of functions and views that CREATE OR REPLACE can't change. tests/test_upgrade.py tells what is lacking.

alter table relief.detector add column generated_by text;
create index event_happened_idx on relief.event using brin (happened_at);
