-- Old partitions go, but never the newest days that hold rows: however wrong the clock is, a week can be sent again.
drop function drop_day_partitions(text, date);

create function drop_old_day_partitions(parent text, before_day date, keep_days int) returns setof text
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  child record;
  holds boolean;
  kept int := 0;
begin
  if parent not in ('outbox') then
    raise exception 'partitions of % are kept', parent;
  end if;
  for child in
    select c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') as day
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = ('public.' || parent)::regclass and c.relname ~ '_\d{8}$'
    order by day desc
  loop
    execute format('select exists (select from %I)', child.relname) into holds;
    if holds and kept < keep_days then
      kept := kept + 1;
      continue;
    end if;
    continue when child.day >= before_day;
    execute format(
      'select exists (select from %I o join outbox_cursor h using (stream) where o.seq > h.published_seq)', child.relname
    ) into holds;
    continue when holds;
    execute format('drop table %I', child.relname);
    return next child.relname;
  end loop;
end $$;

grant execute on function drop_old_day_partitions to tollkeeper_app;
