"""Reading the text of a compiled XLA program: its operations, and how often each is run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

SOURCE = r'op_name="([^"]*)"'  # where in JAX's program: `jit(f)/while/body/dot_general`
SCOPE = "training_steps"  # the `jax.named_scope` of the loop over training steps
# Operations without work of their own.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
FREE |= {"partition-id", "replica-id", "opt-barrier", "while", "conditional", "call"}
FREE |= {"copy-done", "slice-done", "async-done"}
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
OPERATION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = .*? ([a-z][\w\-]*)\((.*)$")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(
    r"(body|condition|to_apply|(?:true|false|branch)_computations?)=(\{[^}]*\}|%?[\w.\-]+)"
)


@dataclass(frozen=True)
class Operation:
    """One line of a program: `%name = shape opcode(operands), attributes`."""

    opcode: str
    inside: str  # the parentheses: operands, or the value of a constant
    attributes: str
    is_root: bool
    computation: str  # in which it stands

    @property
    def called(self) -> dict[str, list[str]]:
        """The computations that it calls, by their role."""
        found = CALLED.findall(self.attributes)
        return {role: NAME.findall(names) or [names] for role, names in found}

    def attribute(self, pattern: str) -> str:
        """The group of a pattern in its attributes, or nothing."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""

    @property
    def cycles(self) -> int:
        """The TPU compiler's estimate; 0 where it gives none."""
        return int(self.attribute(r'"estimated_cycles":"(\d+)"') or 0)


@dataclass(frozen=True)
class Program:
    """The computations of a compiled program, each a dictionary of operations by name."""

    computations: dict[str, dict[str, Operation]]
    entry: str

    def run(self, computation: str, times: int = 1) -> Iterator[tuple[Operation, int]]:
        """The operations that a computation runs, and how often; of a branch, all alternatives."""
        for operation in self.computations[computation].values():
            yield operation, times
            if operation.opcode in ("while", "call", "conditional"):
                turns = self.turns(operation) if operation.opcode == "while" else 1
                for names in operation.called.values():
                    for name in names:
                        yield from self.run(name, times * turns)

    def training_steps(self, shards: int = 1, block: int = 1) -> list[tuple[Operation, float]]:
        """The operations of one training step of all experiments, and how often each is run.

        A device takes its shards one after another; a kernel takes the steps of a whole block.
        """
        found: list[tuple[Operation, float]] = []
        loop = re.compile(rf"\b{SCOPE}\)*/while$")

        def look(computation: str) -> None:
            operations = self.computations[computation].values()
            of_steps = [each for each in operations if SCOPE in each.attribute(SOURCE)]
            if any(each.attribute(SOURCE).endswith("pallas_call") for each in of_steps):
                found.extend((operation, shards / block) for operation in of_steps)
                return
            for operation in operations:
                called = operation.called
                if "body" in called and loop.search(operation.attribute(SOURCE)):
                    for (name,) in called.values():
                        found.extend(self.run(name, shards))
                elif "body" in called or operation.opcode == "call":
                    look(called.get("body", called.get("to_apply"))[0])

        look(self.entry)
        if not found:
            raise ValueError(f"no loop of the program comes from the scope {SCOPE!r}")
        return found

    def turns(self, loop: Operation) -> int:
        """How often the body of a loop is run, which counts from 0; 1 if nothing says so."""
        if known := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
            return int(known)
        condition = self.computations[loop.called["condition"][0]]
        root = next(operation for operation in condition.values() if operation.is_root)
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return 1
        limit = condition[NAME.findall(root.inside)[1]]
        if limit.opcode == "get-tuple-element":  # carried round, so look at what went in
            around = self.computations[loop.computation]
            parts = around[NAME.findall(loop.inside)[0]]  # a tuple
            limit = around[NAME.findall(parts.inside)[int(limit.attribute(r"index=(\d+)"))]]
            while limit.opcode == "copy":
                limit = around[NAME.findall(limit.inside)[0]]
        return int(limit.inside) if limit.opcode == "constant" else 1


def parse(text: str) -> Program:
    """The program that `compiled.as_text()` shows."""
    computations: dict[str, dict[str, Operation]] = {}
    entry = current = ""
    for line in text.splitlines():
        if heading := COMPUTATION.match(line):
            current = heading[2]
            computations[current] = {}
            entry = current if heading[1] else entry
        elif found := OPERATION.match(line):
            root, name, opcode, rest = found.groups()
            inside, _, attributes = rest.partition(")")
            own = Operation(opcode, inside, attributes, bool(root), current)
            computations[current][name] = own
    return Program(computations, entry)
