-- Up to where charging may go: the latest instant of which everything that the input topics held then is applied.
create table read_mark (
  singleton boolean primary key default true check (singleton),
  read_until timestamptz not null
) with (fillfactor = 50);
insert into read_mark (read_until) values ('epoch');

grant select, update on read_mark to tollkeeper_app;
