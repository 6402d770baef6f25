-- Since when nothing but orders that nobody tried to pay stands in a due case's way; null while something else does.
alter table deletion_case add column deletable_at timestamptz;
