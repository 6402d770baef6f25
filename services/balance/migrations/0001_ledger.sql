-- The ledger: accounts, append-only entries with what caused them, and the chain that seals them.

create table account (
  account_id bigint generated always as identity primary key,
  region text not null,
  tenant_id text not null,
  shard int not null,
  currency text not null,
  opened_at timestamptz not null,
  balance_micros bigint not null default 0,
  burn_micros_per_hour bigint not null default 0,
  state text not null default 'opened' check (state in ('opened', 'ok', 'low', 'exhausted', 'negative')),
  account_version bigint not null default 1,
  entries bigint not null default 0,        -- number of the last entry
  credits bigint not null default 0,        -- number of entries in the customer's favour: a deletion permit dies with each
  negative_since timestamptz,
  low_told boolean not null default false,  -- the present episode of `low` was told
  low_told_at timestamptz,
  last_posted_at timestamptz not null,
  held_micros bigint not null default 0 check (held_micros >= 0),  -- in open disputes: not spendable
  orders bigint not null default 0,         -- number of order registrations: a deletion permit dies with each
  unique (region, tenant_id)
) with (fillfactor = 60);
-- The minute's sweep for empty accounts. The balance itself has no index, or every charge would have to move an index
-- entry; the state says enough, because nobody at or below zero is in another one.
create index account_empty on account (account_id) where state in ('opened', 'exhausted', 'negative');

create table entry (
  account_id bigint not null,
  entry_number bigint not null,             -- contiguous per account
  day date not null,                        -- of posted_at
  posted_at timestamptz not null,
  debit_account text not null,
  credit_account text not null,
  amount_micros bigint not null check (amount_micros > 0),
  balance_after_micros bigint not null,     -- of the customer
  class text not null check (
    class in (
      'charge', 'credit_correction', 'debit_correction', 'adjustment', 'payment', 'refund', 'dispute', 'grant', 'expiry'
    )
  ),
  shard int not null,
  seq bigint,                               -- the charge batch that caused it, or:
  adjustment_key text,
  fact_id text,
  link_number bigint not null,              -- the chain link of its shard that seals it
  primary key (account_id, entry_number, day),
  check (debit_account <> credit_account and 'customer' in (debit_account, credit_account)),
  check (num_nonnulls(seq, adjustment_key, fact_id) = 1)
) partition by range (day);
-- An hour's entries lie together, because posting times rise: ranges of blocks are enough to find them, and cost an
-- insertion next to nothing.
create index entry_posted on entry using brin (posted_at) with (autosummarize = on);

create table adjustment (
  account_id bigint not null references account,
  idempotency_key text not null,
  request_hash bytea not null,
  amount_micros bigint not null check (amount_micros <> 0),
  reason text not null,
  actor text not null,
  entry_number bigint not null,
  balance_after_micros bigint not null,
  posted_at timestamptz not null,
  primary key (account_id, idempotency_key)
);

-- Every fact that is no charge (of payment, of a grant), once: its id is derived from the fact, so a repeat finds itself
-- here. Not partitioned by time.
create table posted_fact (
  fact_id text primary key,
  account_id bigint not null references account,
  content_hash bytea not null,
  payment_id text,
  amount_micros bigint not null,            -- moved in the customer's favour (negative: against it), or 0
  entry_number bigint,                      -- of its entry; null where nothing moved
  posted_at timestamptz not null
);
create index posted_fact_payment on posted_fact (payment_id) where payment_id is not null;
-- What refunds and disputes took from an account is asked for with every deletion permit and redemption.
create index posted_fact_account on posted_fact (account_id);

-- The bytes of every batch as posted.
create table evidence (
  day date not null,                        -- of posted_at
  shard int not null,
  seq bigint not null,
  posted_at timestamptz not null,
  sha256 bytea not null,
  value bytea not null,
  primary key (shard, seq, day)
) partition by range (day);
alter table evidence alter column value set storage external;

create table chain_head (
  shard int primary key,
  link_number bigint not null default 0,
  link bytea not null default '\x',
  last_posted_at timestamptz not null default '1970-01-01 00:00:00+00',
  closed_through timestamptz not null default '1970-01-01 00:00:00+00'  -- nothing is posted before it any more
) with (fillfactor = 50);

create table chain_link (
  shard int not null,
  link_number bigint not null,
  previous bytea not null,
  link bytea not null,
  entries int not null,
  posted_at timestamptz not null,
  primary key (shard, link_number)
);

create table resource_hour (
  day date not null,                        -- of hour
  account_id bigint not null,
  hour timestamptz not null,                -- of posting
  -- Cursors over rows compare resources and kinds, in SQL and, in the open hour, in Python: both by code point.
  resource_id text collate "C" not null,
  kind text collate "C" not null,
  slots bigint not null,
  amount_micros bigint not null,
  primary key (account_id, hour, resource_id, kind, day)
) partition by range (day);

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% is append-only: % refused', tg_table_name, tg_op using errcode = 'restrict_violation';
end $$;

-- Row triggers reach partitions by themselves; a statement trigger for TRUNCATE must be put on each.
do $$
declare name text;
begin
  foreach name in array array['entry', 'adjustment', 'posted_fact', 'evidence', 'chain_link', 'resource_hour'] loop
    execute format('create trigger append_only before update or delete on %I for each row execute function refuse_change()', name);
    execute format('create trigger append_only_truncate before truncate on %I for each statement execute function refuse_change()', name);
  end loop;
end $$;

create function ensure_ledger_partitions(first_day date, last_day date) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  child record;
begin
  perform ensure_day_partitions('entry', first_day, last_day);
  perform ensure_day_partitions('evidence', first_day, last_day);
  perform ensure_day_partitions('resource_hour', first_day, last_day);
  for child in
    select c.oid, c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent in ('public.entry'::regclass, 'public.evidence'::regclass, 'public.resource_hour'::regclass)
      and not exists (select from pg_trigger t where t.tgrelid = c.oid and t.tgname = 'append_only_truncate')
  loop
    execute format(
      'create trigger append_only_truncate before truncate on %I for each statement execute function refuse_change()',
      child.relname
    );
  end loop;
end $$;
revoke execute on function ensure_ledger_partitions from public;

grant execute on function ensure_ledger_partitions to tollkeeper_app;
-- Who an account is never changes, only how it stands.
grant select, insert on account to tollkeeper_app;
grant update (
  balance_micros, burn_micros_per_hour, state, account_version, entries, credits, negative_since, low_told, low_told_at,
  last_posted_at, held_micros, orders
) on account to tollkeeper_app;
grant select, insert on entry, adjustment, posted_fact, evidence, chain_link, resource_hour to tollkeeper_app;
grant select, insert, update on chain_head to tollkeeper_app;
