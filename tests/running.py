import jax
def contents_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"}


def assert_same_bytes(items, others):
    one, other = jax.tree.leaves(items), jax.tree.leaves(others)
    assert [(a.dtype, a.tobytes()) for a in one] == [(a.dtype, a.tobytes()) for a in other]
