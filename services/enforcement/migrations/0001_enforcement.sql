-- Who must be stopped or deleted, when, and the proof that it was right.

-- The row is the lock of every decision on an account. Version 0: nothing is known of it yet.
create table enforced_account (
  region text not null,
  tenant_id text not null,
  account_version bigint not null default 0,
  state text not null default 'unknown'
    check (state in ('unknown', 'opened', 'ok', 'low', 'exhausted', 'negative')),
  balance_micros bigint not null default 0,
  negative_since timestamptz,
  learned_at timestamptz,
  primary key (region, tenant_id)
) with (fillfactor = 70);
create index enforced_account_at_zero on enforced_account (region, tenant_id) where state in ('exhausted', 'negative');

-- What is known of a resource by what one tenant's events say of it. The first `created` claims the resource id.
create table resource (
  region text not null,
  resource_id text not null,
  tenant_id text not null,
  family text not null check (family in ('container', 'volume')),
  created boolean not null,
  deleted boolean not null,
  run_source text,                 -- the running run; null: stopped
  run_event_id text,
  life jsonb not null,
  primary key (region, resource_id, tenant_id, family),
  check ((run_source is null) = (run_event_id is null)),
  check (not deleted or run_source is null)
) with (fillfactor = 70);
create unique index resource_claimed on resource (region, resource_id) where created;
create index resource_live on resource (region, tenant_id) where created and not deleted;

create table stop_request (
  region text not null,
  resource_id text not null,
  run_source text not null,
  run_event_id text not null,
  tenant_id text not null,
  account_version bigint not null,
  requested_at timestamptz not null,
  attempts int not null,           -- commands sent so far; never falls, so that a command's id is never used twice
  next_attempt_at timestamptz not null,
  ended_at timestamptz,
  outcome text check (outcome in ('confirmed', 'cancelled')),
  confirmed_at timestamptz,
  primary key (region, resource_id, run_source, run_event_id),
  check ((ended_at is null) = (outcome is null))
) with (fillfactor = 70);
create index stop_request_due on stop_request (next_attempt_at) where ended_at is null;

create table deletion_case (
  case_id text primary key,        -- region/tenant/negative_since
  region text not null,
  tenant_id text not null,
  negative_since timestamptz not null,
  opened_at timestamptz not null,
  began_at timestamptz not null,   -- the grace period runs from here to due_at: negative_since, or later where reopened
  due_at timestamptz not null,
  remind_at timestamptz,           -- the next reminder; null after the last
  reminded_at timestamptz,
  state text not null check (state in ('scheduled', 'plan', 'frozen', 'carrying_out', 'cancelled', 'done')),
  reason text,
  permit_id text,
  permit_expires_at timestamptz,
  evidence jsonb not null default '{}',
  changed_at timestamptz not null,
  changes int not null default 0,  -- raised by each event of the case, so that event ids are derived and unique
  next_look_at timestamptz not null default 'epoch',  -- PostgreSQL's time: claimed or examined until then, by anybody
  looks int not null default 0     -- how often it was looked at in vain since its last change
);
create unique index deletion_case_open on deletion_case (region, tenant_id) where state not in ('cancelled', 'done');
create index deletion_case_due on deletion_case (due_at) where state not in ('cancelled', 'done', 'plan');
create index deletion_case_remind on deletion_case (remind_at)
  where remind_at is not null and state not in ('cancelled', 'done');

create table deletion_target (
  case_id text not null references deletion_case,
  region text not null,
  resource_id text not null,
  family text not null,
  permit_id text,
  redeemed_at timestamptz,
  commanded_at timestamptz,
  command_expires_at timestamptz,
  next_command_at timestamptz,     -- the next command comes no sooner; null: none was given yet
  commands int not null default 0,
  done_at timestamptz,
  abandoned_at timestamptz,
  primary key (case_id, resource_id)
);
create index deletion_target_open on deletion_target (region, resource_id) where done_at is null;
-- Commands of cases that have ended, until their resource is gone or the deletion is given up.
create index deletion_target_unconfirmed on deletion_target (command_expires_at)
  where command_expires_at is not null and done_at is null and abandoned_at is null;

-- What holds up the deletions of a region, so that a person is paged once for it and not once per case.
create table doubt (
  region text not null,
  cause text not null,
  seen_at timestamptz not null,    -- PostgreSQL's time
  primary key (region, cause)
);

-- Lifecycle events from beyond the present, kept until the clock reaches them.
create table parked_event (
  source text not null,
  event_id text not null,
  subject text not null,
  due_at timestamptz not null,
  envelope jsonb not null,
  applied_at timestamptz,
  primary key (source, event_id, subject)
);
create index parked_event_due on parked_event (due_at) where applied_at is null;

-- How much of an allowance was used in a window of time: bounds what a mistake can do. Windows of the past are removed.
create table breaker (
  name text not null,              -- what is bounded, and the region
  window_started_at timestamptz not null,
  used int not null,
  primary key (name, window_started_at)
);

-- Deletions wait for an operator while a row of their region, or of all regions, is open.
create table halt (
  halt_id bigint generated always as identity primary key,
  service text not null,           -- whose trouble it is
  region text,                     -- null: every region
  reason text not null,
  halted_at timestamptz not null,
  resumed_at timestamptz,
  resumed_by text,
  resume_reason text
);
create unique index halt_open on halt (service, coalesce(region, '')) where resumed_at is null;

-- The latest instant at which the service ran: a clock that is far from it at start is believed by nobody.
create table clock_mark (
  only_row boolean primary key default true check (only_row),
  seen_at timestamptz not null
);

-- Processes take turns at the sweep.
create table sweep_turn (
  only_row boolean primary key default true check (only_row),
  next_at timestamptz not null default 'epoch',  -- PostgreSQL's time
  swept_at timestamptz             -- when the last complete sweep began, by the clock
);
insert into sweep_turn default values;

grant select, insert, update on enforced_account, resource, stop_request, deletion_case, deletion_target, parked_event,
  breaker, halt, clock_mark, doubt to tollkeeper_app;
grant select, update on sweep_turn to tollkeeper_app;
grant delete on breaker to tollkeeper_app;
