-- Versions of an account begin anew, and higher, with each incarnation of this database: plain comparison lets it win.
create function first_account_version() returns bigint language sql stable as $$
  select (incarnation << 40) + 1 from database_mark
$$;
alter table account alter column account_version set default first_account_version();

-- Accounts of which something was published that this database lost, or that moved while it caught up silently.
create table restated_account (account_id bigint primary key references account);

grant execute on function first_account_version to tollkeeper_app;
grant select, insert, delete on restated_account to tollkeeper_app;
