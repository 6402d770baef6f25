-- A database that was set back to a backup knows it: which database this is, and what every restore lost.

create table database_mark (
  only_row boolean primary key default true check (only_row),
  incarnation bigint not null default 0,    -- raised by each restore above every one that was ever told
  identity text                             -- server, timeline and database; null until a service first ran on it
);
insert into database_mark default values;

create table restore_record (
  incarnation bigint primary key,
  noticed text not null,                    -- how
  restored_at timestamptz not null,
  told_until timestamptz,                   -- latest instant of what was published and is not known here
  finished_at timestamptz,                  -- null: the service has not caught up yet
  confirmed_at timestamptz,                 -- null: deletions are frozen
  confirmed_by text,
  confirm_reason text
);

-- What a restore could not get back, for an operator.
create table restore_lost (
  incarnation bigint not null references restore_record,
  kind text not null,
  item text not null,                       -- its id within its kind
  region text not null,
  tenant_id text not null,
  told_at timestamptz not null,
  detail jsonb not null,
  primary key (incarnation, kind, item)
);

create function database_identity() returns text language sql stable as $$
  select concat_ws('/', (select system_identifier from pg_control_system()),
    -- The first eight digits of a WAL file's name are the timeline: a recovery to a point in time begins a new one.
    case when pg_is_in_recovery() then 'recovering' else left(pg_walfile_name(pg_current_wal_lsn()), 8) end,
    (select oid from pg_database where datname = current_database()))
$$;

grant select, insert, update on database_mark, restore_record to tollkeeper_app;
grant select, insert on restore_lost to tollkeeper_app;
grant execute on function database_identity to tollkeeper_app;
