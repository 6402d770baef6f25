-- Metering's truth: resources with their histories, and one row per shard that every transaction on it locks first.

create table shard (
  shard int primary key,
  seq bigint not null default 0,             -- last charge batch of the shard's stream
  version bigint not null default 0,         -- raised by every intake that changed a resource of the shard
  metered_through timestamptz not null       -- everything before it is charged
) with (fillfactor = 50);

-- What a worker had in memory of a shard at one (version, through) of its row: an economy, never the truth.
create table shard_snapshot (
  shard int primary key,
  format int not null,                       -- who reads another one is another version of the code
  function_version int not null,
  version bigint not null,
  through timestamptz not null,
  value bytea not null
);
-- Compressed already.
alter table shard_snapshot alter column value set storage external;

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
  source text not null,                      -- of its creation: whose inventory lists it
  version bigint not null,                   -- the shard's version that last changed it
  history bytea not null,
  ends_at timestamptz,                       -- when its charges end, where that is known
  admission_id text,
  contradictions int not null default 0,     -- rows of `contradiction` that its history makes
  charged_through timestamptz,               -- set aside by ticks since then; null: charged with its shard
  primary key (region, resource_id)
);
create index resource_by_version on resource (shard, version);

-- Every lifecycle event that was applied: its (source, id) can't mean something else later.
create table lifecycle_event (
  source text not null,
  event_id text not null,
  fingerprint bytea not null,
  primary key (source, event_id)
);

-- Facts that wait: for their resource's `created` or the event that they replace (pending), for their time or for an
-- operator (parked). What waits holds its (topic, source, id); once it is applied, `lifecycle_event` or `usage_record` do.
create table waiting_event (
  topic text not null,
  source text not null,
  event_id text not null,
  fingerprint bytea not null,
  state text not null check (state in ('pending', 'parked')),
  reason text not null,
  due_at timestamptz,                        -- null: waits for something other than time
  region text not null,
  resource_id text not null,                 -- of usage the SKU
  tenant_id text not null,
  shard int not null,
  replaces_source text,                      -- the event that it amends, if it waits for that
  replaces_id text,
  body bytea not null,
  received_at timestamptz not null,
  reported boolean not null default false,
  primary key (topic, source, event_id)
);
create index waiting_event_by_resource on waiting_event (region, resource_id);
create index waiting_event_by_target on waiting_event (topic, replaces_source, replaces_id)
  where replaces_id is not null;
create index waiting_event_due on waiting_event (due_at) where due_at is not null;
create index waiting_event_unreported on waiting_event (received_at) where state = 'pending' and not reported;

-- What can't be as it was said, until it is: events without effect, numbers that occur twice, amendments and claims that
-- were refused, listings against events.
create table contradiction (
  region text not null,
  resource_id text not null,
  kind text not null,
  source text not null,
  event_id text not null,
  tenant_id text not null,
  detail text not null,
  noted_at timestamptz not null,
  primary key (region, resource_id, kind, source, event_id)
);
create index contradiction_by_kind on contradiction (kind);

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
  sku text not null,                         -- '' where the record only takes another one out
  quantity bigint not null,
  used_from timestamptz not null,
  priced boolean not null,
  replaced_source text,                      -- the record that took this one out
  replaced_id text,
  primary key (source, event_id)
);
create index usage_record_unpriced on usage_record (region, sku) where not priced and replaced_id is null;

-- The running sum over which a service's usage is rounded. Usage is charged when it comes in, not with the ticks: no
-- price of it changes up to `used_until`, where the latest of it begins.
create table usage_total (
  region text not null,
  tenant_id text not null,
  sku text not null,
  price_micros bigint not null,
  unit_size bigint not null,
  quantity bigint not null,
  used_until timestamptz not null,
  primary key (region, tenant_id, sku, price_micros, unit_size)
);

-- Pages of listings that are not compared yet.
create table inventory_page (
  region text not null,
  source text not null,
  snapshot text not null,
  page int not null,
  pages int not null,
  observed_at timestamptz not null,
  content bytea not null,                    -- a hash: the same page again is nothing new, another one contradicts it
  body bytea not null,
  primary key (region, source, snapshot, page)
);

-- A source's listings: up to where they are complete, and whether the last one is compared with its resources.
create table inventory_source (
  region text not null,
  source text not null,
  snapshot text not null,
  observed_at timestamptz not null,          -- of the last complete listing
  listing_id text not null,                  -- the event that completed it
  next_shard int not null,                   -- the shards before it are compared
  resources int not null,
  primary key (region, source)
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

grant select, insert, update on shard, resource, usage_record, usage_total, account_burn, halt, inventory_source
  to tollkeeper_app;
grant select, insert on deployment, lifecycle_event, price_book to tollkeeper_app;
grant select, insert, update, delete on waiting_event, unpriced_resource, inventory_page, contradiction, shard_snapshot
  to tollkeeper_app;
