-- When each order is asked about next, up to when a provider's events were swept, and receipts.

alter table payment_order
  add column asks int not null default 0,   -- how often the provider was asked about it
  add column ask_at timestamptz;            -- next; null: as soon as it is due for the first time, or never again
create index payment_order_first_ask on payment_order (created_at) where asks = 0 and ask_at is null;
create index payment_order_next_ask on payment_order (ask_at) where ask_at is not null;
grant update (asks, ask_at) on payment_order to tollkeeper_app;

create table event_sweep (
  provider text primary key,
  swept_through timestamptz not null
);
grant select, insert, update on event_sweep to tollkeeper_app;

-- Numbers are contiguous in a region and year; a receipt is what it says, for ever.
create table receipt (
  number text primary key,
  payment_id text not null unique references payment,
  region text not null,
  year int not null,
  ordinal int not null check (ordinal > 0),
  issued_at timestamptz not null,
  seller text[] not null,                   -- as it stood when the receipt was issued
  unique (region, year, ordinal)
);
alter table payment add column receipt_issued boolean not null default false;
create index payment_without_receipt on payment (credited_at) where credited_at is not null and not receipt_issued;
grant update (receipt_issued) on payment to tollkeeper_app;
create trigger append_only before update or delete on receipt for each row execute function refuse_change();
create trigger append_only_truncate before truncate on receipt for each statement execute function refuse_change();
grant select, insert on receipt to tollkeeper_app;
