"""The adding problem: the sum of two marked numbers (Hochreiter & Schmidhuber, 1997)."""

import jax
import jax.numpy as jnp

from srn_jax.tasks.task import Examples, Task, Vectors, place_of

TOLERANCE = 0.04  # an answer this close is right, as in Hochreiter & Schmidhuber (1997)


class Adding(Task):
    """Two channels: a value uniform on 0..1, and a mark that is 1 at one place of each half.

    The target is the sum of the two marked values; the loss is the squared error. Length 6:

        value  .31  .77  .05  .62  .48  .90
        mark    0    1    0    0    1    0   -> 1.25

    Always answering 1 has a loss of 1/6. As in Le et al. (2015) and Arjovsky et al. (2016).
    """

    inputs = Vectors(2)
    outputs = 1
    examples = 1000
    shortest = 2
    chance = 1 - (1 - TOLERANCE) ** 2  # how often the sum of two uniform numbers is that close to 1
    chance_loss = 1 / 6
    better = "loss"
    question = f"the sum of the two marked numbers, within {TOLERANCE}"

    def draw(self, key, number, length, width):
        """Each position has a key of its own, so that its values do not depend on the width."""
        value_key, first_key, second_key = jax.random.split(key, 3)
        place = place_of(length, width)
        keys = jax.vmap(lambda t: jax.random.fold_in(value_key, t))(place)
        values = jax.vmap(lambda k: jax.random.uniform(k, (number,)))(keys).T
        half = length // 2
        first = jax.random.randint(first_key, (number, 1), 0, half)
        second = jax.random.randint(second_key, (number, 1), half, length)
        marks = (place[None] == first) | (place[None] == second)
        targets = jnp.sum(values * marks, axis=1)
        inputs = jnp.stack([values, marks.astype(values.dtype)], axis=-1)
        return Examples(jnp.where(place[:, None] >= 0, inputs, 0), targets)

    def loss(self, outputs, targets):
        """Squared error."""
        return (outputs[..., 0] - targets) ** 2

    def correct(self, outputs, targets):
        """Whether the answer is within `TOLERANCE`."""
        return jnp.abs(outputs[..., 0] - targets) < TOLERANCE

    def probe_targets(self, examples):
        """The sum in tenths, as whole numbers."""
        return {"sum in tenths": jnp.floor(examples.targets * 10).astype(jnp.int32)}
