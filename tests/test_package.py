"""What `import srn_jax` offers."""

import importlib
from types import ModuleType

import srn_jax


def test_a_public_name_is_the_same_thing_before_and_after_its_module_is_imported():
    for name, module in srn_jax._PUBLIC.items():
        thing = getattr(srn_jax, name)
        importlib.import_module(f"srn_jax.{module}")
        assert getattr(srn_jax, name) is thing and not isinstance(thing, ModuleType), name
