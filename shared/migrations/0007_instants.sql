-- No row may hold an instant that no calendar has. PostgreSQL's go far beyond year 9999 and to infinity: one of them in
-- an aggregate over all rows (when is the first due?) ends a loop, one in a list ends its page.
-- For every column that has no such check yet; a migration that adds an instant calls it again.
create or replace function bound_instants() returns void language plpgsql as $$
declare instant record;
begin
  for instant in
    select c.oid::regclass as relation, c.relname, a.attname
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
      and a.atttypid = 'timestamptz'::regtype and a.attnum > 0 and not a.attisdropped
      and not exists (select from pg_constraint k
        where k.conrelid = c.oid and k.conname = left(c.relname || '_' || a.attname, 52) || '_in_calendar')
  loop
    execute format(
      'alter table %s add constraint %I check (%I >= ''0001-01-01 00:00:00+00'' and %I < ''10000-01-01 00:00:00+00'')',
      instant.relation, left(instant.relname || '_' || instant.attname, 52) || '_in_calendar',
      instant.attname, instant.attname);
  end loop;
end $$;
