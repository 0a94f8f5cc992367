"""Turns a plan into tables for the terminal; everything in them is predicted, and says so."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vramprof.prediction.plan import CardFit, Plan
from vramprof.renderers.console import text_of
from vramprof.units import format_bytes


def render_plan(plan: Plan, *, width: int = 100, color: bool = False) -> str:
    """The plan as text; with `color`, ANSI escapes."""
    return text_of(_parts(plan), width=width, color=color)


def _parts(plan: Plan) -> Iterator[RenderableType]:
    load = plan.workload
    yield Text("PREDICTED by closed forms: nothing was run, nothing was measured", style="bold yellow")
    yield Text(f"\n{plan.model.name} on {plan.gpu.name}, {_ranks(load.ranks)}", style="bold")
    active = f", {_count(plan.active_parameters)} active" if plan.active_parameters != plan.parameters else ""
    cache = f"; KV cache {plan.cache_bytes_per_token:,} B a token" if plan.cache_bytes_per_token else ""
    yield Text(f"{_count(plan.parameters)} parameters{active}{cache} ({plan.model.source})")
    low, high = plan.device_bytes
    verdict = ("fits", "green") if high <= plan.gpu.total else ("may fit", "yellow") if low <= plan.gpu.total else (
        "does not fit", "bold red",
    )  # fmt: skip
    yield Text.assemble(
        ("predicted peak ", "dim"), (format_bytes(plan.allocated_bytes), "bold"), " allocated, ",
        f"{format_bytes(low)} to {format_bytes(high)} of {format_bytes(plan.gpu.total)} on the card: ", verdict,
    )  # fmt: skip
    yield Text("")
    yield _terms(plan)
    yield Text("")
    yield _moments(plan)
    yield Text("")
    yield _cards(plan)
    if plan.advice:
        yield Text("")
        yield _advice(plan)
    yield Text("\nnot counted", style="dim")
    for line in plan.not_counted:
        yield Padding(Text(line), (0, 0, 0, 2))


def _ranks(count: int) -> str:
    return "one rank of one" if count == 1 else f"one rank of {count}"


def _count(number: int) -> str:
    return f"{number:,}"


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim", expand=True)
    table.add_column(headers[0], ratio=1)
    for header in headers[1:]:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def _terms(plan: Plan) -> Table:
    table = _table(f"predicted at the peak: {plan.peak_moment.value}", "bytes", "share")
    whole = sum(term.bytes for term in plan.terms)
    for term in plan.terms:
        words = Text.assemble(term.term, (f"\n  {term.formula}\n  {term.source}", "dim"))
        table.add_row(words, format_bytes(term.bytes), f"{100 * term.bytes / whole:.1f} %")
    return table


def _moments(plan: Plan) -> Table:
    table = _table("predicted through a step", "allocated")
    for moment, terms in plan.moments.items():
        size = sum(term.bytes for term in terms if term.category != "outside")
        table.add_row(Text(moment.value, "bold" if moment is plan.peak_moment else ""), format_bytes(size))
    return table


def _cards(plan: Plan) -> Table:
    table = _table("predicted on cards", "total", "margin", "cards", "how")
    for card in sorted(plan.cards, key=lambda card: (card.cards or 10**9, card.total_bytes)):
        style = "green" if card.fits else ""
        table.add_row(
            Text(card.gpu, style), format_bytes(card.total_bytes), format_bytes(card.margin_bytes), _how_many(card),
            card.how,
        )  # fmt: skip
    return table


def _how_many(card: CardFit) -> str:
    return "none will do" if card.cards is None else str(card.cards)


def _advice(plan: Plan) -> Table:
    table = _table("what to change first", "option", "predicted saving")
    for advice in plan.advice:
        table.add_row(advice.change, advice.option, format_bytes(advice.saving_bytes))
    return table
