-- Metering's truth: resources with their histories, and one row per shard that every transaction on it locks first.

create table shard (
  shard int primary key,
  seq bigint not null default 0,             -- last charge batch of the shard's stream
  version bigint not null default 0,         -- raised by every intake that changed a resource of the shard
  metered_through timestamptz not null       -- everything before it is charged
) with (fillfactor = 50);

-- Facts of the deployment that may never change.
create table deployment (
  singleton boolean primary key default true check (singleton),
  shards int not null
);

create table resource (
  region text not null,
  resource_id text not null,
  tenant_id text not null,
  shard int not null,
  version bigint not null,                   -- the shard's version that last changed it
  history bytea not null,
  ends_at timestamptz,                       -- when its charges end, where that is known
  admission_id text,
  primary key (region, resource_id)
);
create index resource_by_version on resource (shard, version);
create index resource_open on resource (shard) where ends_at is null;

-- Every event ever accepted, waiting or not: its (source, id) can't mean something else later.
create table lifecycle_event (
  source text not null,
  event_id text not null,
  fingerprint bytea not null,
  primary key (source, event_id)
);

-- Events that wait: for their resource's `created` (pending), for their time, or for an operator (parked).
create table waiting_event (
  source text not null,
  event_id text not null,
  state text not null check (state in ('pending', 'parked')),
  reason text not null,
  due_at timestamptz,                        -- null: waits for something other than time
  region text not null,
  resource_id text not null,
  tenant_id text not null,
  shard int not null,
  body bytea not null,
  received_at timestamptz not null,
  reported boolean not null default false,
  primary key (source, event_id)
);
create index waiting_event_by_resource on waiting_event (region, resource_id);
create index waiting_event_due on waiting_event (due_at) where due_at is not null;

create table price_book (
  version bigint primary key,
  region text not null,
  effective_from timestamptz not null,
  published_at timestamptz not null,
  body jsonb not null
);

-- What uses a SKU that has no price: charged from the first price on, which may be back-dated.
create table unpriced_resource (
  region text not null,
  kind text not null,
  sku text not null,
  resource_id text not null,
  shard int not null,
  primary key (region, kind, sku, resource_id)
);

-- Burn per hour of each account as last published.
create table account_burn (
  region text not null,
  tenant_id text not null,
  shard int not null,
  burn_micros_per_hour bigint not null,
  primary key (region, tenant_id)
);
create index account_burn_by_shard on account_burn (shard) where burn_micros_per_hour <> 0;

create table usage_record (
  source text not null,
  event_id text not null,
  fingerprint bytea not null,
  region text not null,
  tenant_id text not null,
  shard int not null,
  sku text not null,
  quantity bigint not null,
  used_from timestamptz not null,
  priced boolean not null,
  primary key (source, event_id)
);
create index usage_record_unpriced on usage_record (region, sku) where not priced;

-- The running sum over which a service's usage is rounded.
create table usage_total (
  region text not null,
  tenant_id text not null,
  sku text not null,
  price_micros bigint not null,
  unit_size bigint not null,
  quantity bigint not null,
  primary key (region, tenant_id, sku, price_micros, unit_size)
);

create table inventory_page (
  region text not null,
  source text not null,
  snapshot text not null,
  page int not null,
  pages int not null,
  observed_at timestamptz not null,
  body bytea not null,
  primary key (region, source, snapshot, page)
);

-- A contradiction between a source's own listing and its events, for an operator.
create table inventory_alarm (
  region text not null,
  source text not null,
  snapshot text not null,
  resource_id text not null,
  problem text not null,
  observed_at timestamptz not null,
  primary key (region, source, snapshot, resource_id)
);

-- A halted tick waits for an operator; who resumed it and why is kept.
create table halt (
  halt_number bigint generated always as identity primary key,
  reason text not null,
  halted_at timestamptz not null,
  resumed_at timestamptz,
  resumed_by text,
  resume_reason text
);

create or replace view stream_head as
  select stream, seq from outbox_head union all select shard, seq from shard;

grant select, insert, update on shard, resource, usage_record, usage_total, account_burn, halt to tollkeeper_app;
grant select, insert on deployment, lifecycle_event, price_book, inventory_alarm to tollkeeper_app;
grant select, insert, update, delete on waiting_event, unpriced_resource, inventory_page to tollkeeper_app;
