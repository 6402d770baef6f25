-- Receipts: numbers are contiguous in a region and year; a receipt is what it says, for ever.

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
create trigger append_only before update or delete on receipt for each row execute function refuse_change();
create trigger append_only_truncate before truncate on receipt for each statement execute function refuse_change();
grant select, insert on receipt to tollkeeper_app;
