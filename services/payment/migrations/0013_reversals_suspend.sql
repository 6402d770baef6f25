-- Whoever gets his money back, or disputes a charge, has not agreed to be charged again for what that leaves.
alter table auto_top_up drop constraint auto_top_up_suspended_reason_check;
alter table auto_top_up add constraint auto_top_up_suspended_reason_check
  check (suspended_reason in ('declined', 'authentication_required', 'restored', 'refunded', 'disputed'));
