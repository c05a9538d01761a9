"""Copies csrc, with what only a CUDA compiler reads rewritten: launches and shared variables.

    python translate.py CSRC TARGET

A launch becomes a call of emulate::launch, a ``__shared__`` variable a reference that
emulate::shared returns; toolkit/cuda_runtime.h has the rest of the language. Lines keep their
numbers, and #line names the original file, so that the emulator's faults point to it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

SUFFIXES = {".h", ".cuh", ".cu"}
KERNEL_NAME = re.compile(r"[\w:]+")
SHARED = re.compile(r"__shared__ ([\w:]+(?:<[^;>]*>)?) ([^;]*);")
DYNAMIC = re.compile(r"extern __shared__ (?:__align__\(\d+\) )?unsigned char (\w+)\[\];")


def closing(text: str, start: int, pair: str) -> int:
    """Where the bracket at `start` is closed."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == pair[0]) - (text[i] == pair[1])
        if depth == 0:
            return i
    raise SystemExit(f"unbalanced {pair}: {text[start : start + 80]!r}")


def start_of_kernel(text: str, end: int) -> int:
    """Where the expression begins that names the kernel, and ends before `end`."""
    begin = end
    if text[begin - 1] == ">":
        depth = 0
        while True:
            begin -= 1
            depth += (text[begin] == ">") - (text[begin] == "<")
            if depth == 0:
                break
    while re.match(r"[\w:]", text[begin - 1]):
        begin -= 1
    return begin


def split_arguments(text: str) -> list[str]:
    """The arguments of a call, split at its own commas."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts]


def name_of_kernel(text: str, kernel: str, at: int) -> str:
    """The kernel's own name, where it is launched through a variable too."""
    name = KERNEL_NAME.match(kernel)[0]
    assigned = re.findall(rf"\b{name} = ([\w:]+)", text[:at])
    return assigned[-1] if assigned else name


def rewrite_launches(text: str) -> str:
    while (at := text.find("<<<")) >= 0:
        end = len(text[:at].rstrip())
        begin = start_of_kernel(text, end)
        kernel = text[begin:end]
        close = text.index(">>>", at)
        parenthesis = text.index("(", close)
        last = closing(text, parenthesis, "()")
        settings = text[at + 3 : close]
        # A kernel's own limit of dynamic shared memory concerns those launches only that use any.
        dynamic = (*split_arguments(settings), "0", "0", "0")[2] != "0"
        function = f"emulate::address_of({kernel})" if dynamic else "nullptr"
        flat = re.sub(r"\s+", " ", kernel)
        call = (
            f'emulate::launch("{name_of_kernel(text, kernel, begin)}", {function}, '
            f"[&](const auto&... each) {{ {flat}(each...); }}, "
            f"emulate::Settings({settings}), {text[parenthesis + 1 : last]})"
        )
        replaced = text[begin : last + 1]
        call += "\n" * (replaced.count("\n") - call.count("\n"))
        text = text[:begin] + call + text[last + 1 :]
    return text


def rewrite_shared(text: str, numbers: list[int]) -> str:
    def declaration(match: re.Match[str]) -> str:
        references = []
        for name, extent in re.findall(r"(\w+)((?:\[[^\]]*\])*)\s*(?:,|$)", match[2]):
            numbers.append(len(numbers))
            kind = f"{match[1]}{extent}"
            references.append(f"auto& {name} = emulate::shared<{kind}>({numbers[-1]});")
        return " ".join(references) + "\n" * match[0].count("\n")

    text = DYNAMIC.sub(r"unsigned char* \1 = emulate::dynamic_shared();", text)
    return SHARED.sub(declaration, text)


def translate(source: Path, target: Path, replacement: tuple[str, str, str] | None = None) -> None:
    """With a replacement (file, old, new), a text that occurs once in a file is exchanged first."""
    numbers: list[int] = []  # of shared variables, over all files
    for path in sorted(p for p in source.rglob("*") if p.suffix in SUFFIXES):
        name = path.relative_to(source)
        text = path.read_text()
        if replacement and str(name) == replacement[0]:
            if text.count(replacement[1]) != 1:
                found = text.count(replacement[1])
                raise SystemExit(f"{name}: {found} times, not once: {replacement[1]!r}")
            text = text.replace(*replacement[1:])
        if path.suffix != ".h":
            text = rewrite_shared(rewrite_launches(text), numbers)
            for word in ("<<<", "__shared__"):
                if word in text:
                    raise SystemExit(f"{name}: {word} that this file can't rewrite")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(f'#line 1 "{path}"\n{text}')


if __name__ == "__main__":
    translate(Path(sys.argv[1]), Path(sys.argv[2]))
