-- While a restore is caught up with, each creation asks who was charged for the resource before.
create index restore_charged_resource on restore_charged (region, resource_id);
