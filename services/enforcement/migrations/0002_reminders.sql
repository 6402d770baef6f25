-- A case is reminded of several times: remind_at is the next one, null after the last.
alter table deletion_case alter column remind_at drop not null;
drop index deletion_case_remind;
create index deletion_case_remind on deletion_case (remind_at)
  where remind_at is not null and state not in ('cancelled', 'done');

-- Commands of cases that have ended, until their resource is gone or the deletion is given up.
create index deletion_target_unconfirmed on deletion_target (command_expires_at)
  where command_expires_at is not null and done_at is null and abandoned_at is null;

-- The latest instant at which the service ran: a clock that is far from it at start is believed by nobody.
create table clock_mark (
  only_row boolean primary key default true check (only_row),
  seen_at timestamptz not null
);
grant select, insert, update on clock_mark to tollkeeper_app;
