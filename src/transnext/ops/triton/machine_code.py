"""Reads the machine code of compiled kernels: instructions, loops, narrow loads, spills. No GPU is needed."""

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import triton


class Instruction(NamedTuple):
    """An instruction of a listing.

    Attributes:
        name: Operation with its modifiers, `LDG.E.128`, `v_exp_f32`.
        target: Place in the listing to which it may jump; None where it does not.
        falls_through: Whether the next one may follow.
    """

    name: str
    target: int | None = None
    falls_through: bool = True


class Loop(NamedTuple):
    """An innermost loop.

    Attributes:
        instructions: Of one trip, if no branch in it is taken.
        products: Those among them that multiply matrices.
        barriers: Those that wait for all threads of the program.
    """

    instructions: int
    products: int
    barriers: int


class Usage(NamedTuple):
    """What a kernel takes.

    Attributes:
        registers: Of a thread.
        spilled: Bytes of a thread's registers that lie in memory.
        instructions: Of the whole listing.
        narrow_loads: Instructions that load less than 4 bytes of global memory.
        loops: Innermost loops, in the order of the listing.
    """

    registers: int
    spilled: int
    instructions: int
    narrow_loads: int
    loops: tuple[Loop, ...]


NARROW_LOADS = re.compile(r"LDG\.(\w+\.)*[US](8|16)\b|(global|buffer|flat)_load_([us]?(short|byte)|[ui](8|16)|d16)")
PRODUCTS = re.compile(r"(H|Q|I)MMA\b|(H|Q|I)GMMA\b|v_(s?mfma|wmma)")
BARRIERS = re.compile(r"BAR\b|s_barrier")


def usage(compiled: Any) -> Usage:
    """Reads what Triton compiled, for an NVIDIA GPU with the tools that it ships, or for an AMD one."""
    if "cubin" in compiled.asm:
        registers, spilled, instructions = _of_nvidia(compiled.asm["cubin"])
    else:
        registers, spilled, instructions = _of_amd(compiled.asm["amdgcn"])
    narrow = sum(bool(NARROW_LOADS.match(i.name)) for i in instructions)
    return Usage(registers, spilled, len(instructions), narrow, tuple(loops(instructions)))


def _of_nvidia(cubin: bytes) -> tuple[int, int, list[Instruction]]:
    with TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(cubin)
        resources, listing = (
            subprocess.run(
                [triton.knobs.nvidia.cuobjdump.path, option, str(binary)], check=True, capture_output=True, text=True
            ).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    registers, spilled = (int(re.findall(rf"\b{word}:(\d+)", resources)[-1]) for word in ("REG", "STACK"))
    return registers, spilled, sass(listing)


def _of_amd(listing: str) -> tuple[int, int, list[Instruction]]:
    registers, spilled = (
        int(re.findall(rf"\.{word}:\s+(\d+)", listing)[-1]) for word in ("vgpr_count", "private_segment_fixed_size")
    )
    return registers, spilled, amdgcn(listing)


def sass(listing: str) -> list[Instruction]:
    """Instructions of a listing for NVIDIA GPUs, without those that do nothing.

    Args:
        listing: Lines `/*0a30*/ @!P0 BRA 0x810 ;`, as cuobjdump writes them.
    """
    found = []
    for line in listing.splitlines():
        match = re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z]\S*)([^;]*);", line)
        if match:
            address, predicate, name, operands = match.groups()
            kind = name.split(".")[0]
            target = re.search(r"0x([0-9a-f]+)\s*$", operands) if kind in ("BRA", "JMP") else None
            ends = kind in ("BRA", "JMP", "EXIT", "RET", "BRX") and not predicate and "P" not in operands
            found.append((int(address, 16), name, int(target[1], 16) if target else None, not ends))
    kept = [row for row in found if row[1] != "NOP"]
    places = {row[0]: sum(other[0] < row[0] for other in kept) for row in found if row[1] == "NOP"}
    places |= {row[0]: i for i, row in enumerate(kept)}
    return [Instruction(name, None if target is None else places[target], falls) for _, name, target, falls in kept]


def amdgcn(listing: str) -> list[Instruction]:
    """Instructions of a listing for AMD GPUs, as LLVM writes them."""
    rows: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        label = re.match(r"(\.LBB\w+):", line)
        instruction = re.match(r"\s+([a-z]\w+)\s*([^;]*)", line)
        if label:
            labels[label[1]] = len(rows)
        elif instruction and re.match(r"(s|v|ds|global|buffer|flat|scratch)_", line.strip()):
            rows.append((instruction[1], instruction[2].strip()))
    return [
        Instruction(
            name,
            labels.get(operands) if "branch" in name else None,
            name not in ("s_branch", "s_endpgm", "s_setpc_b64"),
        )
        for name, operands in rows
    ]


def loops(instructions: Sequence[Instruction]) -> Iterator[Loop]:
    """Innermost loops of a listing: what lies on the way from a branch back to where it leads.

    A branch back is one to an instruction on the way from the kernel's beginning to it. Code that the compiler puts
    behind the end and leaves by a branch to an earlier place is none.
    """
    bodies: dict[int, set[int]] = {}
    before: dict[int, list[int]] = {}
    for i in range(len(instructions)):
        for following in _following(instructions, i):
            before.setdefault(following, []).append(i)
    for source, head in _branches_back(instructions):
        body, open_ends = bodies.setdefault(head, {head}), [source]
        while open_ends:
            place = open_ends.pop()
            if place not in body:
                body.add(place)
                open_ends += before.get(place, [])
    for head, body in sorted(bodies.items()):
        if any(other != head and other in body for other in bodies):
            continue
        names = [instructions[i].name for i in body]
        products, barriers = (sum(bool(kind.match(name)) for name in names) for kind in (PRODUCTS, BARRIERS))
        yield Loop(len(names), products, barriers)


def _following(instructions: Sequence[Instruction], place: int) -> list[int]:
    one = instructions[place]
    found = [place + 1] if one.falls_through and place + 1 < len(instructions) else []
    return found if one.target is None or one.target >= len(instructions) else [*found, one.target]


def _branches_back(instructions: Sequence[Instruction]) -> Iterator[tuple[int, int]]:
    """Pairs of a branch and where it leads, met on a walk in depth from the first instruction."""
    on_the_way, done = {0}, {0}
    stack = [(0, iter(_following(instructions, 0)))] if instructions else []
    while stack:
        place, ahead = stack[-1]
        following = next(ahead, None)
        if following is None:
            stack.pop()
            on_the_way.discard(place)
        elif following in on_the_way:
            if following != place:  # the end of a listing is a branch to itself
                yield place, following
        elif following not in done:
            on_the_way.add(following)
            done.add(following)
            stack.append((following, iter(_following(instructions, following))))
