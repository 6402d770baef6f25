-- A dump that is put back into the very same database, in place, makes every table anew: that is a restore as well.
create temporary table identity_before on commit drop as select database_identity() as identity;

create or replace function database_identity() returns text language sql stable as $$
  select concat_ws('/', (select system_identifier from pg_control_system()),
    -- The first eight digits of a WAL file's name are the timeline: a recovery to a point in time begins a new one.
    case when pg_is_in_recovery() then 'recovering' else left(pg_walfile_name(pg_current_wal_lsn()), 8) end,
    (select oid from pg_database where datname = current_database()),
    to_regclass('database_mark')::oid)
$$;

-- What was this database by the old words is this database by the new ones.
update database_mark set identity = database_identity() where identity = (select identity from identity_before);
