-- Automatic top-up: what the customer agreed to, each charge of the saved card, and why it stopped.

create table auto_top_up (
  region text not null,
  tenant_id text not null,
  agreement_number int not null,            -- counts what was agreed to; a charge is of one agreement alone
  threshold_micros bigint not null,         -- all of the account's currency
  target_micros bigint not null,
  daily_cap_micros bigint not null,
  monthly_cap_micros bigint not null,
  card_customer text not null,
  card_method text not null,
  enabled boolean not null,
  suspended_reason text check (suspended_reason in ('declined', 'authentication_required')),
  suspensions int not null default 0,
  changed_at timestamptz not null,
  primary key (region, tenant_id)
);
create index auto_top_up_active on auto_top_up (region, tenant_id) where enabled and suspended_reason is null;

-- Who agreed to what, word by word: never changed.
create table auto_top_up_consent (
  consent_number bigint generated always as identity primary key,
  region text not null,
  tenant_id text not null,
  consent text not null,
  actor text not null,
  agreement jsonb not null,
  consented_at timestamptz not null
);

create table auto_top_up_attempt (
  order_id text primary key references payment_order,
  region text not null,
  tenant_id text not null,
  number int not null,
  agreement_number int not null,
  card_customer text not null,              -- the agreement's when it was decided: a repeat asks for the same charge
  card_method text not null,
  amount_micros bigint not null check (amount_micros > 0),
  at timestamptz not null,
  sent_at timestamptz,                      -- first; null: the provider has never heard of it
  tried_at timestamptz,                     -- last sent, or asked about
  charging_until timestamptz,               -- until when a request for it may be on its way; null: none is
  state text not null check (state in ('open', 'paid', 'declined', 'needs_customer', 'withdrawn')),
  reason text,                              -- why it was withdrawn
  unique (region, tenant_id, number)
);
create index auto_top_up_attempt_open on auto_top_up_attempt (at, order_id) where state = 'open';
create index auto_top_up_attempt_of_account on auto_top_up_attempt (region, tenant_id, at);

create trigger append_only before update or delete on auto_top_up_consent for each row execute function refuse_change();
create trigger append_only_truncate before truncate on auto_top_up_consent for each statement execute function refuse_change();

grant select, insert, update on auto_top_up to tollkeeper_app;
grant select, insert on auto_top_up_consent, auto_top_up_attempt to tollkeeper_app;
grant update (state, reason, sent_at, tried_at, charging_until) on auto_top_up_attempt to tollkeeper_app;
