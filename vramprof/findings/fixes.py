"""Turns the cause of a leak into what to do about it, with a line to paste made from the program's own."""

from __future__ import annotations

import re

from vramprof.analyses.leak_causes import LeakCause
from vramprof.findings.finding import Fix

_SCALAR_BLOCK_BYTES = 512
_ELEMENT = re.compile(r"[^\]]\[[^\[\]]*\] -> (Tensor|Parameter)$")


def fix_for(cause: LeakCause, code: str) -> Fix:
    """What to do about one leak."""
    line = "" if cause.keeper is None else re.sub(r"\s+#.*$", "", cause.keeper.code)
    return _FIXES.get(code, _kept)(line, cause)


def _kept(line: str, cause: LeakCause) -> Fix:
    scalars = cause.alive_bytes <= _SCALAR_BLOCK_BYTES * sum(growth.alive_count for growth in cause.growths)
    direct = cause.keeper is not None and _ELEMENT.search(cause.keeper.path)  # the container holds the tensor itself
    if scalars:
        return Fix("keep the number, not the tensor", _argument(line, ".item()") if direct else None)
    code = _argument(line, ".detach().cpu()") if direct else None
    return Fix("keep it on the CPU, keep less of it, or give the container a limit", code)


def _graph(line: str, cause: LeakCause) -> Fix:
    action = "detach before keeping, or run what needs no gradient under torch.no_grad()"
    added = re.fullmatch(r"(.+?)\s*\+=\s*(.+)", line)
    if added:
        return Fix(action, f"{added[1]} += {_operand(added[2])}.detach()")
    if "(" in line and re.search(r"\.\w+\(", line.split("=")[0]):
        return Fix(action, _argument(line, ".detach()"))
    assigned = re.fullmatch(r"([\w.\[\]'\"]+)\s*=\s*(.+)", line)
    return Fix(action, f"{assigned[1]} = {_operand(assigned[2])}.detach()" if assigned else None)


def _cycle(line: str, cause: LeakCause) -> Fix:
    action = "break the cycle (weakref.ref to the owner, no stored lambda or bound method), or collect now and then"
    return Fix(action, "if step % 100 == 0: gc.collect()")


def _exception(line: str, cause: LeakCause) -> Fix:
    return Fix(
        "keep the exception's text, not the exception: its traceback holds the frames", _argument(line, "", "str")
    )


def _hook(line: str, cause: LeakCause) -> Fix:
    code = f"handle = {line}  # and handle.remove() when done" if "register" in line else "handle.remove()"
    return Fix("register the hook once, or remove it after use", code)


def _cache(line: str, cause: LeakCause) -> Fix:
    return Fix("give the cache a limit, and keep methods of objects out of it", "@functools.lru_cache(maxsize=32)")


def _larger(line: str, cause: LeakCause) -> Fix:
    name = line.split("=")[0].strip() if "=" in line else ""
    code = f"{name}.append(new.detach().cpu())" if name else None
    return Fix("collect the parts in a list on the CPU and concatenate once, at the end", code)


def _cpp(line: str, cause: LeakCause) -> Fix:
    action = "if backward(create_graph=True) is used: torch.autograd.grad instead, or reset the gradients after it"
    return Fix(action, "for parameter in model.parameters(): parameter.grad = None")


_FIXES = {
    "VP202": _graph, "VP203": _cycle, "VP204": _exception, "VP205": _hook, "VP206": _cache, "VP207": _larger,
    "VP210": _cpp,
}  # fmt: skip


def _argument(line: str, suffix: str, function: str = "") -> str | None:
    """The line with what it keeps, by a call or under a key, made into something that may be kept."""
    found = re.fullmatch(r"(.*?\.(?:append|appendleft|add|put|put_nowait)\()(.+)(\))", line)
    found = found or re.fullmatch(r"([\w.]+\[[^\]]*\]\s*=\s*)(.+)()", line)
    if found is None or found[2].count("(") != found[2].count(")") or found[2].startswith(("(", "[", "{")):
        return None
    value = f"{function}({found[2]})" if function else f"{_operand(found[2])}{suffix}"
    return f"{found[1]}{value}{found[3]}"


def _operand(text: str) -> str:
    """The text as one operand: in parentheses if an operator would bind less than what follows."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0 and letter == " " and place:
            return f"({text})"
    return text
