select bound_instants();
