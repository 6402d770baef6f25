-- Admission: what starting something would cost, and what of a balance is kept for what was admitted.

-- Metering's price books, by SKU; a book that is told again changes nothing.
create table price (
  region text not null,
  kind text not null check (kind in ('gpu', 'storage')),
  sku text not null,
  effective_from timestamptz not null,
  price_micros bigint not null check (price_micros >= 0),  -- of one unit (GPU, GB) and hour
  book_version bigint not null,
  primary key (region, kind, sku, effective_from)
);

-- What was admitted. It holds back its amount until it ends, or until `expires_at`.
create table hold (
  admission_id text primary key,
  account_id bigint not null references account,
  idempotency_key text not null,
  request_hash bytea not null,
  action text not null check (action in ('create', 'start', 'restart', 'create_volume', 'grow_volume')),
  amount_micros bigint not null check (amount_micros >= 0),
  held_at timestamptz not null,
  expires_at timestamptz not null,
  ended_at timestamptz,
  end_reason text check (end_reason in ('charged', 'released')),
  unique (account_id, idempotency_key)
);
create index hold_open on hold (account_id, expires_at) where ended_at is null;

grant select, insert, update on price to tollkeeper_app;
grant select, insert on hold to tollkeeper_app;
grant update (ended_at, end_reason) on hold to tollkeeper_app;
