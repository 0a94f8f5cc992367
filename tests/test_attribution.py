"""Attribution against oracles that know nothing of it: a walk of storages, autograd's own hooks, torch's counters."""

from __future__ import annotations

from typing import Any

import pytest

from programs import told_by

PROGRAMS = """
import contextlib, json, time, torch, vramprof
import numpy as np
from torch import nn
from torch.nn import functional

def rounded(size): return max(512, -(-size // 512) * 512)

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.drop = nn.Dropout(0.1)
    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.drop(self.out(y.transpose(1, 2).reshape(x.shape)))
        return x + self.mlp(x)

class Transformer(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.tokens = nn.Embedding(1000, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, 1000, bias=False)
        self.head.weight = self.tokens.weight  # tied: one storage
        self.register_buffer("mask", torch.ones(64, 64))
    def forward(self, tokens):
        x = self.tokens(tokens)
        for block in self.blocks: x = block(x)
        return self.head(x)

def transformer():
    model = Transformer().cuda()
    x = torch.randint(1000, (4, 64)).cuda()
    return model, lambda: functional.cross_entropy(model(x).flatten(0, 1), x.flatten())

def amp():
    model, loss = transformer()
    def autocast():
        with torch.autocast("cuda", dtype=torch.bfloat16): return loss()
    return model, autocast

def convnet():
    head = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 15 * 15, 10)]
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), *head).cuda()
    x, y = torch.randn(8, 3, 32, 32).cuda(), torch.zeros(8, dtype=torch.long).cuda()
    return model, lambda: functional.cross_entropy(model(x), y)

def kept_outputs():
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 8)).cuda()
    x, kept = torch.randn(512, 64).cuda(), []
    def loss():
        kept[:] = [model(x)]
        return (kept[0] * 2).sum()
    return model, loss
"""


def told(name: str, code: str) -> Any:
    return told_by(PROGRAMS + f"program = {name}\n" + code)


@pytest.mark.parametrize("name", ["transformer", "amp", "convnet", "kept_outputs"])
def test_activations_are_what_autograd_saves(name: str) -> None:
    seen, saved = told(
        name,
        """
from vramprof.analyses.attribution import CATEGORIES
torch.manual_seed(0)
model, loss = program()
def held(told):  # weights, buffers and inputs are saved too, and are none
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    return sum(rounded(size) for address, size in told.items() if address not in own | before)
before = {b["address"] for s in torch.cuda.memory_snapshot() for b in s["blocks"] if b["state"] == "active_allocated"}
saved = {}
def pack(tensor):
    if tensor.is_cuda: saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return tensor
with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
    value = loss()
oracle = held(saved)
value.backward(); model.zero_grad(); del value
moments = []
with vramprof.profile() as prof:
    for _ in range(2):
        value = loss()
        time.sleep(0.002); moments.append(time.time_ns()); time.sleep(0.002)
        value.backward(); model.zero_grad(); del value
device = prof.report().facts.devices[0]
found, sizes = device.allocations, np.array([rounded(n) for n in device.allocations.requested_bytes.tolist()])
def activations(moment):
    alive = found.alive(int(np.searchsorted(found.time_ns, moment)) - 1)
    return int(sizes[alive & (device.attribution.category == CATEGORIES.index("activations"))].sum())
print(json.dumps([[activations(moment) for moment in moments], oracle]))
""",
    )
    assert saved > 0
    assert seen == [saved, saved]


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "Adafactor", "RMSprop"])
def test_weights_gradients_and_states_equal_a_walk_of_storages(optimizer: str) -> None:
    seen, walked = told(
        "amp",
        f"""
from vramprof.analyses.attribution import CATEGORIES
model, loss = program()
options = {{"momentum": 0.9}} if {optimizer!r} == "SGD" else {{}}
optimizer = torch.optim.{optimizer}(model.parameters(), lr=0.01, **options)
def total(tensors):
    storages = [t.untyped_storage() for t in tensors if torch.is_tensor(t) and t.is_cuda]
    found = {{storage.data_ptr(): storage.nbytes() for storage in storages}}
    return sum(rounded(size) for size in found.values())
def walk():
    states = [value for state in optimizer.state.values() for value in state.values()]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [total(model.parameters()), total(model.buffers()), total(gradients), total(states)]
moments, walked = [], []
def look():
    time.sleep(0.002); moments.append(time.time_ns()); walked.append(walk()); time.sleep(0.002)
with vramprof.profile() as prof:
    for _ in range(3):
        for _ in range(2): (loss() / 2).backward()  # accumulated
        look()
        optimizer.step()
        look()
        optimizer.zero_grad()
        look()
device = prof.report().facts.devices[0]
found, sizes = device.allocations, np.array([rounded(n) for n in device.allocations.requested_bytes.tolist()])
def held(moment):
    alive = found.alive(int(np.searchsorted(found.time_ns, moment)) - 1)
    return [int(sizes[alive & (device.attribution.category == CATEGORIES.index(name))].sum())
            for name in ("weights", "buffers", "gradients", "optimizer")]
print(json.dumps([[held(moment) for moment in moments], walked]))
""",
    )
    assert seen == walked


def test_sums_close_at_the_peak_at_each_step_and_at_random_moments() -> None:
    sums = told(
        "amp",
        """
import random
from collections import Counter
model, loss = program()
optimizer = torch.optim.AdamW(model.parameters())
kept = []
with vramprof.profile() as prof:
    for step in range(6):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        kept.append(torch.empty(random.randrange(1, 1 << 22), device="cuda"))
        if step % 3 == 2: del kept[0]
device = prof.report().facts.devices[0]
found, line = device.allocations, device.timeline
rows = [device.peak.index - 1, *(random.randrange(found.event_count) for _ in range(50))]
rows += [int(np.searchsorted(found.time_ns, step.end_ns)) - 1 for step in device.steps]
told = []
for row in rows:
    alive = found.alive(row)
    by = [Counter(), Counter()]
    for column, counter in zip((device.attribution.category, device.attribution.module), by):
        for key, size in zip(column[alive].tolist(), found.size_bytes[alive].tolist()): counter[key] += size
    told.append([*(sum(counter.values()) for counter in by), int(line.allocated_bytes[row + 1])])
torchs = torch.cuda.memory_stats()["allocated_bytes.all.peak"]
print(json.dumps([told, len(device.steps), int(line.allocated_bytes.max()), torchs]))
""",
    )
    told_sums, steps, highest, torchs = sums
    assert steps == 6
    assert highest == torchs
    assert all(category == module == allocated for category, module, allocated in told_sums)


def test_steps_of_a_gan_have_both_optimizers_and_accumulation_is_one_step() -> None:
    gan, accumulated, inference, closure = told(
        "amp",
        """
def steps(body):
    with vramprof.profile() as prof: body()
    return len(prof.report().facts.devices[0].steps)
generator, critic = nn.Linear(8, 16).cuda(), nn.Linear(16, 1).cuda()
optimizers = [torch.optim.Adam(critic.parameters()), torch.optim.Adam(generator.parameters())]
def gan():
    for _ in range(5):
        for optimizer, sign in zip(optimizers, (1, -1)):
            (sign * critic(generator(torch.randn(4, 8, device="cuda")))).sum().backward()
            optimizer.step(); optimizer.zero_grad()
def accumulate():
    for _ in range(4):
        for _ in range(3): critic(torch.randn(4, 16, device="cuda")).sum().backward()
        optimizers[0].step(); optimizers[0].zero_grad()
def infer():
    with torch.no_grad():
        for _ in range(7): critic(torch.randn(4, 16, device="cuda"))
def with_closure():
    def closure():
        optimizers[0].zero_grad()
        loss = critic(torch.randn(4, 16, device="cuda")).sum()
        loss.backward()
        return loss
    for _ in range(3): optimizers[0].step(closure)
told = [steps(gan)]
generator = None; del optimizers[1]
print(json.dumps([*told, steps(accumulate), steps(infer), steps(with_closure)]))
""",
    )
    assert [gan, accumulated, inference, closure] == [5, 4, 7, 3]


def test_the_engines_allocations_get_the_module_and_the_forward_line() -> None:
    modules, lines = told(
        "transformer",
        """
from vramprof.analyses.contexts import BACKWARD
model, loss = program()
with vramprof.profile() as prof:
    for _ in range(2): loss().backward()
device = prof.report().facts.devices[0]
chosen = np.flatnonzero((device.attribution.phase == BACKWARD) & (device.allocations.stack == -1))
sizes = device.allocations.size_bytes[chosen]
modules = {}
for index, size in zip(chosen.tolist(), sizes.tolist()):
    path = device.attribution.module[index]
    modules[path] = modules.get(path, 0) + size
with_line = sum(s for i, s in zip(chosen.tolist(), sizes.tolist()) if device.attribution.stack[i] != -1)
print(json.dumps([modules, with_line / int(sizes.sum())]))
""",
    )
    assert {"(loss)", "head", "blocks.2.mlp.0", "blocks.0.qkv", "blocks.1.norm"} <= modules.keys()
    assert lines > 0.99


def test_windows_keep_the_steps_asked_for_and_a_monitor_arms_itself() -> None:
    asked, monitored, monitored_peak = told(
        "transformer",
        """
model, loss = program()
optimizer = torch.optim.AdamW(model.parameters())
def run(extra, **options):
    with vramprof.profile(**options) as prof:
        for step in range(12):
            kept = torch.empty(extra if step >= 8 else 1, dtype=torch.uint8, device="cuda")
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()
    return prof.report().facts.devices[0]
asked = run(1, steps="3:6")
monitored = run(1 << 28, mode="monitor")
steps = [[step.index for step in device.steps] for device in (asked, monitored)]
print(json.dumps([*steps, monitored.peak.allocated_bytes]))
""",
    )
    assert asked == [3, 4, 5]
    assert monitored
    assert min(monitored) >= 8
    assert monitored_peak > 1 << 28


def test_modules_that_another_thread_calls_during_a_backward_are_no_recomputation() -> None:
    found = told_by(
        """
import json, threading, torch, vramprof
from torch import nn
from torch.utils.checkpoint import checkpoint
def forward():
    with torch.no_grad(): other(torch.randn(1024, 256).cuda())
def in_a_thread(gradient):
    thread = threading.Thread(target=forward)
    thread.start()
    thread.join()
model, other = nn.Linear(256, 256).cuda(), nn.Sequential(nn.Linear(256, 512), nn.ReLU()).cuda()
x = torch.randn(1024, 256).cuda().requires_grad_()
with vramprof.profile() as prof:
    hidden = checkpoint(model, x, use_reentrant=False)
    hidden.register_hook(in_a_thread)
    hidden.sum().backward()
spans = prof.recording.spans
print(json.dumps({kind: sorted(set(spans[spans.kind == kind].name)) for kind in ("forward", "recompute")}))
"""
    )
    assert found == {"forward": ["Linear", "Sequential"], "recompute": ["Linear"]}
