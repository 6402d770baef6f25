-- A restore that is not settled yet: what was charged in all, by the backup's own histories and by the batches adopted.
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

grant select, insert, delete on restore_charged to tollkeeper_app;
