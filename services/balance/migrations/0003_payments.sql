-- Payments: entries caused by a fact of payment, amounts held by open disputes, and orders that void deletion permits.

alter table entry add column fact_id text;
alter table entry drop constraint entry_class_check;
alter table entry add constraint entry_class_check check (
  class in ('charge', 'credit_correction', 'debit_correction', 'adjustment', 'payment', 'refund', 'dispute')
);
alter table entry drop constraint entry_check1;
alter table entry add constraint entry_one_cause check (num_nonnulls(seq, adjustment_key, fact_id) = 1);

alter table account
  add column held_micros bigint not null default 0 check (held_micros >= 0),  -- in open disputes: not spendable
  add column orders bigint not null default 0;  -- number of order registrations: a deletion permit dies with each
grant update (held_micros, orders) on account to tollkeeper_app;

alter table deletion_permit add column orders bigint not null default 0;

-- Every fact of payment, once: its id is derived from the fact, so a repeat finds itself here. Not partitioned by time.
create table payment_fact (
  fact_id text primary key,
  account_id bigint not null references account,
  content_hash bytea not null,
  payment_id text,
  amount_micros bigint not null,            -- moved in the customer's favour (negative: against it), or 0
  entry_number bigint,                      -- of its entry; null where nothing moved
  posted_at timestamptz not null
);
create index payment_fact_payment on payment_fact (payment_id) where payment_id is not null;

-- What each open dispute holds now.
create table dispute_hold (
  dispute_id text primary key,
  account_id bigint not null references account,
  held_micros bigint not null check (held_micros >= 0)
);

-- Orders that payment announced before it let anybody pay. Pending until the payment is captured or finally refused.
create table pending_order (
  order_id text primary key,
  account_id bigint not null references account,
  provider text not null,
  credit_micros bigint not null,
  registered_at timestamptz not null,
  expires_at timestamptz not null,
  attempted boolean not null default false,
  ended_at timestamptz,
  ended_by text                             -- the id of the fact that ended it
);
create index pending_order_open on pending_order (account_id) where ended_at is null;

create trigger append_only before update or delete on payment_fact for each row execute function refuse_change();
create trigger append_only_truncate before truncate on payment_fact for each statement execute function refuse_change();

grant select, insert on payment_fact to tollkeeper_app;
grant select, insert, update on dispute_hold, pending_order to tollkeeper_app;
