-- Whether an item that was set aside is still to be left alone. A pause that began in the future was measured by a clock
-- that was ahead and is right by now: it would last as long as that clock was wrong.
create function still_held(item set_aside, now timestamptz) returns boolean language sql immutable as
  $$ select item.next_at > now and item.last_at <= now + interval '1 minute' $$;
