"""Reading the text of a compiled XLA program: its operations, and how often each is run.

Only what a cost model asks for: the operations of each computation, which computations they call,
the number of turns of each loop, and the bytes that an operation moves through the memory of the
device (not through that of the chip).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

SCOPE = "training_steps"  # the `jax.named_scope` of the loop over training steps
# Operations without work of their own.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
FREE |= {"partition-id", "replica-id", "opt-barrier", "while", "conditional", "call"}
FREE |= {"copy-done", "slice-done", "async-done"}
NO_WORK = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
MOVED = re.compile(r"(pred|[a-z]+\d+\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
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
    shape: str  # of the result, with its layout
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

    def bytes_moved(self, operation: Operation) -> int:
        """Bytes that an operation reads from and writes to the memory of the device.

        Of an array of which it takes a slice, or that it updates in place, only that part counts.
        """
        around = self.computations[operation.computation]
        if operation.opcode in FREE or NO_WORK.search(operation.attributes):
            return 0
        if operation.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * size_of(operation.shape)
        if operation.opcode == "dynamic-update-slice":
            return 2 * size_of(around[operation.operands[1]].shape)
        operands = [around[name] for name in operation.operands]
        if operation.opcode.endswith("-start"):  # its shape is (source, target, ...)
            source, target = [found[0] for found in MOVED.finditer(operation.shape)][:2]
            moved = size_of(target, on_chip=True)
            return moved * (bool(size_of(source)) + bool(size_of(target)))
        if operation.opcode != "fusion":
            return size_of(operation.shape) + sum(size_of(operand.shape) for operand in operands)
        inside = self.computations[operation.called["calls"][0]]
        parameters = {int(o.literal): o for o in inside.values() if o.opcode == "parameter"}
        # Inside a fusion the text gives no memory space, so the outer shape decides.
        moved = sum(
            min(size_of(operand.shape), self.bytes_read(inside, parameters[index].name))
            for index, operand in enumerate(operands)
        )
        root = next(o for o in inside.values() if o.is_root)
        parts = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        written = 0
        for part in parts:
            while part.opcode in ("bitcast", "copy", "convert"):
                part = inside[part.operands[0]]
            updates = part.opcode == "dynamic-update-slice"
            written += size_of(
                inside[part.operands[1]].shape if updates else part.shape, on_chip=True
            )
        return moved + min(written, size_of(operation.shape))

    def bytes_read(self, inside: dict[str, Operation], name: str) -> int:
        """Bytes that the operations of a fusion read of one of its parameters."""
        read = 0
        for user in inside.values():
            if name not in user.operands:
                continue
            if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
                read += size_of(user.shape, on_chip=True)
            elif user.opcode == "bitcast":
                read += self.bytes_read(inside, user.name)
            elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
                return size_of(inside[name].shape, on_chip=True)
        return read


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
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    end = closing(rest, opening)
    inside = rest[opening + 1 : end]
    return Operation(
        name=start[2],
        opcode=rest[:opening],
        shape=shape,
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


def size_of(shape: str, on_chip: bool = False) -> int:
    """Bytes of a shape; with `on_chip` also of arrays on the chip, in `S(1)` and higher."""
    total = 0
    for dtype, dimensions, layout in MOVED.findall(shape):
        if on_chip or not re.search(r"S\([1-9]", layout):
            digits = re.search(r"\d+", dtype)
            bits = int(digits[0]) if digits else 8
            total += math.prod(int(n) for n in dimensions.split(",") if n) * bits // 8
    return total
