-- A dead letter that is garbage for good is closed by an operator: it ends as a replayed one does, and keeps its bytes.
alter table dead_letter add closed_by text, add close_reason text;
comment on column dead_letter.replayed_at is 'when it ended: replayed, or closed by an operator';
create index dead_letter_open_by_topic on dead_letter (topic, died_at) where replayed_at is null;
