-- Promotional credit and vouchers: grants that expire, and how far each account's burning was worked out.

-- What was given away. Bought credit has no row: it is what is left.
create table promotional_grant (
  grant_id text primary key,
  account_id bigint not null references account,
  grant_number bigint generated always as identity unique,
  kind text not null check (kind in ('promotion', 'voucher')),
  amount_micros bigint not null check (amount_micros > 0),
  priority int not null,                    -- lower is burnt sooner
  expires_at timestamptz not null,
  granted_at timestamptz not null,
  idempotency_key text not null,
  request_hash bytea not null,
  reason text not null,
  actor text not null,
  unique (account_id, idempotency_key)
);

-- What is left of a grant as of its account's checkpoint, and how often a rest of it expired.
create table grant_standing (
  grant_id text primary key references promotional_grant,
  account_id bigint not null references account,
  expires_at timestamptz not null,
  remaining_micros bigint not null check (remaining_micros >= 0),
  expiries int not null default 0,
  is_over boolean not null default false    -- it expired and what was left is posted
);
create index grant_standing_due on grant_standing (expires_at) where not is_over;
create index grant_standing_account on grant_standing (account_id);

-- Burning worked out up to an entry, for accounts that ever had a grant.
create table grant_checkpoint (
  account_id bigint primary key references account,
  entry_number bigint not null,
  credits bigint not null,                  -- the account's, at that entry
  bought_micros bigint not null,
  usage_debt_micros bigint not null,
  cash_debt_micros bigint not null,
  burns jsonb not null,                     -- [source, amount], the latest last
  worked_out_at timestamptz not null
);

create table voucher (
  voucher_id text primary key,
  code_hash bytea not null unique,          -- the code itself is told once and not kept
  region text not null,
  amount_micros bigint not null check (amount_micros > 0),
  priority int not null,
  grant_seconds bigint not null check (grant_seconds > 0),
  redeem_until timestamptz not null,
  redemptions_max int not null check (redemptions_max > 0),
  redemptions int not null default 0 check (redemptions <= redemptions_max),
  reason text not null,
  actor text not null,
  request_hash bytea not null,
  issued_at timestamptz not null
);

create table voucher_redemption (
  voucher_id text not null references voucher,
  account_id bigint not null references account,
  grant_id text not null references promotional_grant,
  redeemed_at timestamptz not null,
  primary key (voucher_id, account_id)
);

-- Codes that were none, per tenant in its last hour with one: guessing is bounded, and so is this table.
create table voucher_guess (
  region text not null,
  tenant_id text not null,
  hour timestamptz not null,
  guesses int not null,
  primary key (region, tenant_id, hour)
);

do $$
declare name text;
begin
  foreach name in array array['promotional_grant', 'voucher_redemption'] loop
    execute format('create trigger append_only before update or delete on %I for each row execute function refuse_change()', name);
    execute format('create trigger append_only_truncate before truncate on %I for each statement execute function refuse_change()', name);
  end loop;
end $$;

grant select, insert on promotional_grant, voucher, voucher_redemption to tollkeeper_app;
grant update (redemptions) on voucher to tollkeeper_app;
grant select, insert, update on grant_standing, grant_checkpoint, voucher_guess to tollkeeper_app;
grant delete on voucher_guess to tollkeeper_app;
