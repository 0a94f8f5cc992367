"""The user's program is untouched: its numbers, its random state, its compiled code, its peaks, its tracebacks."""

from __future__ import annotations

from programs import told_by

LOOP = """
import json, torch, vramprof
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(32, 32), nn.LayerNorm(32), nn.Dropout(0.1)
    def forward(self, x):
        return x + self.drop(self.norm(self.linear(x)).relu())

def build(device):
    return nn.Sequential(Block(), Block(), nn.Linear(32, 4)).to(device)
"""


def test_losses_and_random_state_on_the_cpu_are_bit_identical() -> None:
    bare, watched = told_by(
        LOOP
        + """
def run(session):
    torch.manual_seed(0)
    model = build("cpu")
    optimizer = torch.optim.AdamW(model.parameters())
    losses = []
    with session:
        for _ in range(5):
            loss = model(torch.randn(8, 32)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item().hex())
    return losses, torch.get_rng_state().sum().item()
import contextlib
print(json.dumps([run(contextlib.nullcontext()), run(vramprof.profile())]))
"""
    )
    assert bare == watched


def test_compiled_code_is_not_compiled_again() -> None:
    told = told_by(
        LOOP
        + """
import torch._dynamo
from torch._dynamo.utils import counters
model = build("cuda")
hooked = build("cuda")
handle = hooked[0].register_forward_hook(lambda module, args, output: None)
compiled = [torch.compile(model, backend="aot_eager"), torch.compile(hooked, backend="aot_eager")]
@torch.compile(backend="aot_eager")
def part(x):
    x = model[0](x)
    torch._dynamo.graph_break()
    return model[1](x)
calls = [*compiled, part]
def go():
    for call in calls:
        call(torch.randn(8, 32, device="cuda")).sum().backward()
def count():
    return [counters["stats"]["unique_graphs"], sum(counters["graph_break"].values()), counters["frames"]["total"]]
go()
before = count()
with vramprof.profile():
    go()
during = count()
go()
torch._dynamo.reset()
counters.clear()
with vramprof.profile():
    go()
    first = count()
    go()
    again = count()
go()
print(json.dumps([before, during, first, again, count()]))
"""
    )
    before, during, first, again, after = told
    assert before == during
    assert first == again == after
    assert first == before


def test_a_traceback_shows_no_frame_of_ours() -> None:
    bare, watched = told_by(
        LOOP
        + """
import contextlib, traceback
class Bad(nn.Module):
    def forward(self, x): raise ValueError("mine")
def told(session):
    try:
        with session:
            nn.Sequential(nn.Linear(4, 4), Bad()).cuda()(torch.ones(2, 4, device="cuda"))
    except ValueError as error:
        return [(f.filename, f.lineno, f.name) for f in traceback.extract_tb(error.__traceback__)][1:]
print(json.dumps([told(contextlib.nullcontext()), told(vramprof.profile())]))
"""
    )
    assert bare == watched


def test_peaks_settings_and_threads_metadata_stay() -> None:
    told = told_by(
        LOOP
        + """
model = build("cuda")
x = torch.ones(1 << 26, device="cuda"); del x
peak = torch.cuda.memory_stats()["allocated_bytes.all.peak"]
torch._C._cuda_setMemoryMetadata("mine")
with vramprof.profile():
    model(torch.randn(8, 32, device="cuda")).sum().backward()
    inside = torch._C._cuda_getMemoryMetadata()
print(json.dumps([peak, torch.cuda.memory_stats()["allocated_bytes.all.peak"], inside,
                  torch._C._cuda_getMemoryMetadata(), nn.Module.__call__.__code__.co_filename]))
"""
    )
    before, after, inside, outside, filename = told
    assert before == after
    assert inside == outside == "mine"
    assert filename.endswith("module.py")
