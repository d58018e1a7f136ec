"""Reading the text of a compiled XLA program: its operations, and how often each is run.

Only what a cost model asks for: the operations of each computation, which computations they call,
and the number of turns of each loop.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

SCOPE = "training_steps"  # the `jax.named_scope` of the loop over training steps
# Operations without work of their own.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
FREE |= {"partition-id", "replica-id", "opt-barrier", "while", "conditional", "call"}
FREE |= {"copy-done", "slice-done", "async-done"}
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
OPERATION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(
    r"(body|condition|calls|to_apply|true_computation|false_computation|branch_computations)"
    r"=(\{[^}]*\}|%?[\w.\-]+)"
)


@dataclass(frozen=True)
class Operation:
    """One line of a program."""

    name: str
    opcode: str
    operands: tuple[str, ...]
    literal: str  # what stands in the parentheses: the value of a constant
    attributes: str
    is_root: bool
    computation: str  # in which it stands

    @cached_property
    def called(self) -> dict[str, tuple[str, ...]]:
        """The computations that it calls, by their role."""
        return {
            role: tuple(NAME.findall(names)) or (names,)
            for role, names in CALLED.findall(self.attributes)
        }

    @cached_property
    def source(self) -> str:
        """Where in the JAX program it comes from: `jit(f)/while/body/dot_general`."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @cached_property
    def cycles(self) -> int:
        """The TPU compiler's estimate; 0 where it gives none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class Program:
    """The computations of a compiled program, each a dictionary of operations by name."""

    computations: dict[str, dict[str, Operation]]
    entry: str

    def run(self, computation: str, times: int = 1) -> Iterator[tuple[Operation, int]]:
        """The operations that a computation runs, and how often; of a branch, all alternatives.

        A loop whose number of turns is unknown counts once.
        """
        for operation in self.computations[computation].values():
            yield operation, times
            if operation.opcode == "while":
                turns = times * (self.turns(operation) or 1)
                for role in ("condition", "body"):
                    yield from self.run(operation.called[role][0], turns)
            elif operation.opcode in ("call", "conditional"):
                for names in operation.called.values():
                    for name in names:
                        yield from self.run(name, times)

    def training_steps(self, shards: int = 1, block: int = 1) -> list[tuple[Operation, float]]:
        """The operations of one training step of all experiments, and how often each is run.

        Args:
            shards: how many shards a device takes, one after another.
            block: steps that a kernel takes which stands for a whole loop.
        """
        found: list[tuple[Operation, float]] = []
        loop = re.compile(rf"\b{SCOPE}\)*/while$")

        def look(computation: str, times: int) -> None:
            operations = self.computations[computation].values()
            of_steps = [operation for operation in operations if SCOPE in operation.source]
            if any(operation.source.endswith("pallas_call") for operation in of_steps):
                found.extend((operation, times / block) for operation in of_steps)
                return
            for operation in operations:
                body = operation.called.get("body")
                if body and loop.search(operation.source):
                    for names in operation.called.values():
                        found.extend(self.run(names[0], times))
                elif body:
                    look(body[0], times)
                elif operation.opcode == "call":
                    look(operation.called["to_apply"][0], times)

        look(self.entry, shards)
        if not found:
            raise ValueError(f"no loop of the program comes from the scope {SCOPE!r}")
        return found

    def turns(self, loop: Operation) -> int | None:
        """How often the body of a loop is run; None if the program does not say.

        The compiler's own word, or the constant with which the condition compares the counter of a
        loop that JAX wrote, which counts from 0 in steps of 1.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        condition = self.computations[loop.called["condition"][0]]
        root = next(operation for operation in condition.values() if operation.is_root)
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        limit = condition[root.operands[1]]
        if limit.opcode == "get-tuple-element":  # carried round, so look at what went in
            index = int(re.search(r"index=(\d+)", limit.attributes)[1])
            around = self.computations[loop.computation]
            limit = around[around[loop.operands[0]].operands[index]]
            while limit.opcode == "copy":
                limit = around[limit.operands[0]]
        return int(limit.literal) if limit.opcode == "constant" else None


def parse(text: str) -> Program:
    """The program that `compiled.as_text()` shows."""
    computations: dict[str, dict[str, Operation]] = {}
    entry = current = ""
    for line in text.splitlines():
        heading = COMPUTATION.match(line)
        start = OPERATION.match(line)
        if heading:
            current = heading[2]
            computations[current] = {}
            entry = current if heading[1] else entry
        elif start:
            operation = parse_operation(line, start, current)
            computations[current][operation.name] = operation
    return Program(computations, entry)


def parse_operation(line: str, start: re.Match[str], computation: str) -> Operation:
    """One line: `%name = shape opcode(operands), attributes`."""
    rest = line[start.end() :]
    end = closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    rest = rest[end:].lstrip()
    opening = rest.index("(")
    end = closing(rest, opening)
    inside = rest[opening + 1 : end]
    return Operation(
        name=start[2],
        opcode=rest[:opening],
        operands=tuple(NAME.findall(inside)),
        literal=inside,
        attributes=rest[end + 1 :],
        is_root=bool(start[1]),
        computation=computation,
    )


def closing(text: str, opening: int) -> int:
    """The place of the parenthesis that closes the one at `opening`."""
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"a parenthesis is never closed: {text[:80]}")
