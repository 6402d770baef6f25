-- What keeps a debtor's data: disputes' holds, orders that may still be paid, and permits to delete.

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

create table deletion_permit (
  permit_id text primary key,
  account_id bigint not null references account,
  number int not null,
  negative_since timestamptz not null,
  credits bigint not null,
  orders bigint not null,
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

do $$
declare name text;
begin
  foreach name in array array['deletion_permit', 'permit_redemption'] loop
    execute format('create trigger append_only before update or delete on %I for each row execute function refuse_change()', name);
    execute format('create trigger append_only_truncate before truncate on %I for each statement execute function refuse_change()', name);
  end loop;
end $$;

grant select, insert on deletion_permit, permit_redemption to tollkeeper_app;
grant select, insert, update on dispute_hold, pending_order to tollkeeper_app;
