-- The ledger: accounts, append-only entries, the charge streams they come from, and the chain that seals them.

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
  class text not null check (class in ('charge', 'credit_correction', 'debit_correction', 'adjustment')),
  shard int not null,
  seq bigint,                               -- the charge batch that caused it, or:
  adjustment_key text,
  link_number bigint not null,              -- the chain link of its shard that seals it
  primary key (account_id, entry_number, day),
  check (debit_account <> credit_account and 'customer' in (debit_account, credit_account)),
  check ((seq is null) <> (adjustment_key is null))
) partition by range (day);

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

-- Where each shard's charge stream stands. Its row is the fence of posting.
create table charge_stream (
  shard int primary key,
  seq bigint not null default 0,            -- last posted
  stopped_reason text,
  stopped_at timestamptz
) with (fillfactor = 50);

-- What came after a gap or while its stream was stopped.
create table charge_waiting (
  shard int not null,
  seq bigint not null,
  sha256 bytea not null,
  value bytea not null,
  arrived_at timestamptz not null,
  primary key (shard, seq, sha256)
);

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

-- Up to where a shard's hours are written: evidence up to `seq`, hours before `through`.
create table hour_head (
  shard int primary key,
  seq bigint not null default 0,
  through timestamptz not null default '1970-01-01 00:00:00+00'
);

create table resource_hour (
  day date not null,                        -- of hour
  account_id bigint not null,
  hour timestamptz not null,                -- of posting
  resource_id text not null,
  kind text not null,
  slots bigint not null,
  amount_micros bigint not null,
  primary key (account_id, hour, resource_id, kind, day)
) partition by range (day);

create table deletion_permit (
  permit_id text primary key,
  account_id bigint not null references account,
  number int not null,
  negative_since timestamptz not null,
  credits bigint not null,
  due_at timestamptz not null,
  granted_at timestamptz not null,
  expires_at timestamptz not null,
  unique (account_id, negative_since, number)
);

create table permit_redemption (
  permit_id text not null references deletion_permit,
  resource_id text not null,
  redeemed_at timestamptz not null,
  primary key (permit_id, resource_id)
);

create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% is append-only: % refused', tg_table_name, tg_op using errcode = 'restrict_violation';
end $$;

-- Row triggers reach partitions by themselves; a statement trigger for TRUNCATE must be put on each.
do $$
declare name text;
begin
  foreach name in array array[
    'entry', 'adjustment', 'evidence', 'chain_link', 'resource_hour', 'deletion_permit', 'permit_redemption'
  ] loop
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
  last_posted_at
) on account to tollkeeper_app;
grant select, insert on
  entry, adjustment, evidence, chain_link, resource_hour, deletion_permit, permit_redemption to tollkeeper_app;
grant select, insert, update on charge_stream, chain_head, hour_head to tollkeeper_app;
grant select, insert, delete on charge_waiting to tollkeeper_app;
