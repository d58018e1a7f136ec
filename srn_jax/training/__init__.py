"""ONE experiment: a network, an optimizer, what is recorded, and the steps."""
