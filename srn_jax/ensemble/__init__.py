"""MANY experiments: the only place that trains many side by side and shards them."""
