"""MANY experiments: the only place with `vmap` and sharding."""
