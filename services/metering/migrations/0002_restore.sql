-- A restore from an older backup that is not settled yet: while the row is there, nothing ticks and intake publishes nothing.
create table restore (
  singleton boolean primary key default true check (singleton),
  batches bigint not null,                   -- adopted from the charge topic
  begun_at timestamptz not null
);

-- What was charged in all, by the backup's own histories and by the batches adopted.
create table restore_charged (
  shard int not null,
  region text not null,
  tenant_id text not null,
  resource_id text not null,                 -- for service usage the SKU, as in its lines
  kind text not null,
  sku text not null,
  slot_from bigint not null,
  slots bigint not null,
  price_micros bigint not null,
  amount_micros bigint not null,
  primary key (region, tenant_id, resource_id, kind)
);

grant select, insert, delete on restore, restore_charged to tollkeeper_app;
