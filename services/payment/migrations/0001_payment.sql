-- Orders, what was paid for them, what went back, and everything that providers said.

-- One sequence for orders and payments, so that a history of both has one cursor.
create sequence history_number;

create table payment_order (
  order_id text primary key,
  order_number bigint not null unique default nextval('history_number'),
  region text not null,
  tenant_id text not null,
  shard int not null,
  idempotency_key text not null,
  request_hash bytea not null,
  provider text not null check (provider in ('stripe', 'vnpay')),
  amount_micros bigint not null check (amount_micros > 0),
  currency text not null,
  account_currency text not null,
  credit_micros bigint not null check (credit_micros > 0),
  rate_e12 bigint not null check (rate_e12 > 0),
  rate_date date,                           -- null: the payment is in the account's currency
  quote_id text,
  email text not null,                      -- personal, as the next two: never logged, never in an event
  payer_name text not null,
  payer_ip text not null,
  locale text not null,
  bank_code text not null,
  save_card boolean not null default false,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  state text not null default 'pending' check (
    state in ('pending', 'paid', 'credited', 'failed', 'expired', 'mismatched', 'refunded', 'disputed')
  ),
  transitions int not null default 0,       -- number of the last one
  attempted boolean not null default false,
  attempt_registered boolean not null default false,  -- balance knows that it was attempted
  failure_told boolean not null default false,
  payment_id text,                          -- the payment that was credited for it
  registered_at timestamptz,
  page_url text,
  page_reference text,                      -- what the provider calls the page
  -- Names the order's page to whoever has the link: random, for an order's id can be worked out.
  page_token text not null unique default replace(gen_random_uuid()::text, '-', ''),
  asks int not null default 0,              -- how often the provider was asked about it
  ask_at timestamptz,                       -- next; null: as soon as it is due for the first time, or never again
  unique (region, tenant_id, idempotency_key)
) with (fillfactor = 70);
create index payment_order_history on payment_order (region, tenant_id, order_number);
create index payment_order_unsettled on payment_order (created_at) where state in ('pending', 'paid', 'mismatched');
create index payment_order_first_ask on payment_order (created_at) where asks = 0 and ask_at is null;
create index payment_order_next_ask on payment_order (ask_at) where ask_at is not null;
create index payment_order_attempted on payment_order (order_number)
  where attempted and not attempt_registered and state in ('pending', 'mismatched');

create table order_transition (
  order_id text not null references payment_order,
  number int not null,
  from_state text not null,
  to_state text not null,
  cause text not null,
  at timestamptz not null,
  primary key (order_id, number)
);

create table payment (
  payment_id text primary key,
  payment_number bigint not null unique default nextval('history_number'),
  order_id text references payment_order,   -- null: paid for an order that is not known here
  region text,                              -- null until an operator says whose money it is
  tenant_id text,
  provider text not null,
  paid_micros bigint not null check (paid_micros > 0),
  paid_currency text not null,
  account_currency text,
  credit_micros bigint check (credit_micros > 0),  -- null until something is credited for it
  paid_at timestamptz not null,             -- the provider's
  captured_at timestamptz not null,         -- ours
  credited_at timestamptz,                  -- balance's
  reference text not null,
  payer_name text not null,
  payer_email text not null,
  card_customer text,
  card_method text,
  receipt_issued boolean not null default false
) with (fillfactor = 70);
create index payment_of_order on payment (order_id);
create index payment_without_order on payment (region, tenant_id, payment_number) where order_id is null;
create index payment_without_receipt on payment (credited_at) where credited_at is not null and not receipt_issued;
create index payment_uncredited on payment (captured_at) where credit_micros is not null and credited_at is null;

create table refund (
  payment_id text not null references payment,
  refund_id text not null,
  amount_micros bigint not null check (amount_micros > 0),  -- of the payment's currency
  state text not null check (state in ('pending', 'succeeded', 'failed')),
  reason text,
  told_micros bigint not null,              -- what it took of the credit when it was first heard of
  at timestamptz not null,
  changed_at timestamptz not null,
  primary key (payment_id, refund_id)
);

create table dispute (
  payment_id text not null references payment,
  dispute_id text not null,
  amount_micros bigint not null check (amount_micros > 0),  -- of the payment's currency
  held_micros bigint not null,              -- of the account's
  withdrawn boolean not null,
  outcome text not null check (outcome in ('open', 'won', 'lost')),
  at timestamptz not null,
  changed_at timestamptz not null,
  primary key (payment_id, dispute_id)
);

-- What an operator asked a provider to send back. The row is there before the provider is asked. A request that was
-- taken back is answered with a failure, and names who took it back.
create table refund_request (
  request_id text primary key,
  payment_id text not null references payment,
  request_hash bytea not null,
  amount_micros bigint not null check (amount_micros > 0),
  reason text not null,
  actor text not null,
  requested_at timestamptz not null,
  sent_at timestamptz,                      -- first; null: the provider has never heard of it
  tried_at timestamptz,                     -- last sent, or asked about
  refund_id text,
  failure text,
  answered_at timestamptz,
  withdrawn_by text,
  withdrawn_reason text,
  check ((answered_at is null) = (refund_id is null and failure is null))
);
create index refund_request_open on refund_request (requested_at, request_id) where answered_at is null;
create index refund_request_of_payment on refund_request (payment_id);

-- What providers sent, as received. Only a completed event counts as seen. `problem` says why one that is open could
-- not be read or applied; it is tried again, and an operator may dismiss it.
create table inbox (
  provider text not null,
  event_id text not null,
  type text not null,
  body bytea not null,
  first_received_at timestamptz not null,
  completed_at timestamptz,
  outcome text,
  problem text,
  dismissed_by text,
  dismissed_reason text,
  primary key (provider, event_id),
  check ((completed_at is null) = (outcome is null))
);
create index inbox_open on inbox (first_received_at) where completed_at is null;
create index inbox_problem on inbox (provider, event_id) where completed_at is null and problem is not null;

-- Facts about payments that are not known yet: applied by the transaction that captures the payment.
create table early_fact (
  fact_id text primary key,
  fact_number bigint generated always as identity,
  payment_id text not null,
  fact jsonb not null,
  cause text not null,
  received_at timestamptz not null
);
create index early_fact_of_payment on early_fact (payment_id);
create index early_fact_age on early_fact (received_at);

create table queue_item (
  item_id text primary key,
  item_number bigint generated always as identity unique,
  kind text not null,
  subject text not null,
  payment_id text,
  order_id text,
  amount_micros bigint,
  detail text not null,
  opened_at timestamptz not null,
  settled_at timestamptz,
  resolution text check (resolution in ('credit', 'refund', 'dismiss', 'refunded')),
  credited_micros bigint,
  actor text,
  reason text,
  check ((settled_at is null) = (resolution is null))
);
create index queue_item_open on queue_item (item_number) where settled_at is null;
create index queue_item_of_payment on queue_item (payment_id) where settled_at is null;

-- Up to when a provider's events were swept.
create table event_sweep (
  provider text primary key,
  swept_through timestamptz not null
);

create table exchange_rate (
  rate_number bigint generated always as identity primary key,
  from_currency text not null,
  to_currency text not null,
  valid_on date not null,
  rate_e12 bigint not null check (rate_e12 > 0),
  actor text not null,
  published_at timestamptz not null,
  check (from_currency <> to_currency)
);
create index exchange_rate_latest on exchange_rate (from_currency, to_currency, valid_on desc, rate_number desc);

create table quote (
  quote_id text primary key,
  region text not null,
  amount_micros bigint not null,
  currency text not null,
  account_currency text not null,
  rate_e12 bigint not null,
  rate_date date not null,
  credit_micros bigint not null,
  quoted_at timestamptz not null,
  expires_at timestamptz not null
);
create index quote_age on quote (expires_at);

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% is append-only: % refused', tg_table_name, tg_op using errcode = 'restrict_violation';
end $$;

do $$
declare name text;
begin
  foreach name in array array['order_transition', 'exchange_rate'] loop
    execute format('create trigger append_only before update or delete on %I for each row execute function refuse_change()', name);
    execute format('create trigger append_only_truncate before truncate on %I for each statement execute function refuse_change()', name);
  end loop;
end $$;

grant usage on sequence history_number to tollkeeper_app;
grant select, insert on order_transition, exchange_rate to tollkeeper_app;
-- What was agreed and what was paid never changes, only how it stands.
grant select, insert on payment_order, payment, refund, dispute, refund_request, inbox, queue_item, quote, early_fact
  to tollkeeper_app;
grant update (
  state, transitions, attempted, attempt_registered, failure_told, payment_id, registered_at, page_url, page_reference,
  asks, ask_at
) on payment_order to tollkeeper_app;
-- Checkout tells the payer and the intent the card, in either order.
grant update (
  region, tenant_id, account_currency, credit_micros, credited_at, receipt_issued, payer_name, payer_email,
  card_customer, card_method
) on payment to tollkeeper_app;
grant update (state, reason, changed_at) on refund to tollkeeper_app;
grant update (held_micros, withdrawn, outcome, changed_at) on dispute to tollkeeper_app;
grant update (sent_at, tried_at, refund_id, failure, answered_at, withdrawn_by, withdrawn_reason) on refund_request
  to tollkeeper_app;
grant update (completed_at, outcome, problem, dismissed_by, dismissed_reason) on inbox to tollkeeper_app;
grant select, insert, update on event_sweep to tollkeeper_app;
grant update (settled_at, resolution, credited_micros, actor, reason) on queue_item to tollkeeper_app;
grant delete on early_fact, quote to tollkeeper_app;
