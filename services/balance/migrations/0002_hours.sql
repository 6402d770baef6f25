-- Closing hours: how a shard's closer can be stopped, and what makes an hour's entries and rows quick to find.

-- Cursors over rows compare resources and kinds, in SQL and, in the open hour, in Python: both by code point.
alter table resource_hour
  alter column resource_id type text collate "C",
  alter column kind type text collate "C";

alter table hour_head
  add column stopped_reason text,           -- what did not add up; tried again after a while
  add column stopped_at timestamptz;

-- An hour's entries lie together, because posting times rise: ranges of blocks are enough to find them, and cost an
-- insertion next to nothing.
create index entry_posted on entry using brin (posted_at) with (autosummarize = on);
