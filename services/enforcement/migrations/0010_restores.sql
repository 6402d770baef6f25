-- Restores of services that were told: deletions wait until an operator has confirmed each.
create table service_restore (
  service text not null,
  incarnation bigint not null,
  restored_at timestamptz,         -- null: only its confirmation was heard
  confirmed_at timestamptz,
  primary key (service, incarnation)
);
create index service_restore_open on service_restore (service, incarnation) where confirmed_at is null;

grant select, insert, update on service_restore to tollkeeper_app;
