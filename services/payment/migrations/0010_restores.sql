-- Orders to register at balance again, whose ledger was set back: a pending order keeps a deletion away.
alter table payment_order add column register_again boolean not null default false;
create index payment_order_register_again on payment_order (order_id) where register_again;
grant update (register_again) on payment_order to tollkeeper_app;

-- After a restore nobody knows which consents were withdrawn since the backup: no card is charged until its owner agrees.
alter table auto_top_up drop constraint auto_top_up_suspended_reason_check;
alter table auto_top_up add constraint auto_top_up_suspended_reason_check
  check (suspended_reason in ('declined', 'authentication_required', 'restored'));
