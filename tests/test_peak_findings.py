"""The 1xx family: what need not have been alive at the peak, with its bytes, on programs made to show it."""

from __future__ import annotations

from programs import told_by

PROGRAM = """
import json, torch, vramprof
from torch import nn
from torch.nn import functional

def findings(body):
    with vramprof.profile() as prof:
        body()
    return {finding.code: finding.cost_bytes for finding in prof.report().findings if finding.code.startswith("VP1")}

def build(layers=1):
    return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(layers))).cuda()
"""


def test_outputs_that_a_variable_holds_through_backward() -> None:
    kept, dropped = told_by(
        PROGRAM
        + """
def train(drop):
    model, x = build(2), torch.randn(4096, 1024).cuda()
    for _ in range(2):
        logits = model(x)
        loss = (logits * 2).sum()
        if drop: del logits
        loss.backward()
        model.zero_grad()
print(json.dumps([findings(lambda: train(False)), findings(lambda: train(True))]))
"""
    )
    assert kept["VP102"] >= 4096 * 1024 * 4
    assert "VP102" not in dropped


def test_gradients_that_the_next_forward_finds_alive() -> None:
    kept, freed = told_by(
        PROGRAM
        + """
def train(set_to_none):
    model, x = build(4), torch.randn(8192, 1024).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
print(json.dumps([findings(lambda: train(False)), findings(lambda: train(True))]))
"""
    )
    assert "VP103" not in freed
    assert kept["VP103"] == 4 * 1024 * 1024 * 4 + 512  # and the gradient of the sum, that backward starts from


def test_foreach_copies_inside_the_optimizer() -> None:
    foreach, fused = told_by(
        PROGRAM
        + """
def train(**options):
    model, x = build(8), torch.randn(8, 1024).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    for _ in range(2):
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
print(json.dumps([findings(lambda: train(foreach=True)), findings(lambda: train(fused=True))]))
"""
    )
    assert foreach["VP104"] >= 8 * 1024 * 1024 * 4
    assert "VP104" not in fused


def test_a_loss_of_fp32_logits() -> None:
    told = told_by(
        PROGRAM
        + """
def train():
    model, x = nn.Linear(64, 32000).cuda(), torch.randn(4096, 64).cuda()
    y = torch.zeros(4096, dtype=torch.long).cuda()
    for _ in range(2):
        with torch.autocast("cuda", dtype=torch.bfloat16): loss = functional.cross_entropy(model(x), y)
        loss.backward()
print(json.dumps(findings(train)))
"""
    )
    assert told["VP101"] >= 4096 * 32000 * 4


def test_attention_that_is_not_fused_and_fp32_activations() -> None:
    unfused, by_hand, fused = told_by(
        PROGRAM
        + """
from torch.nn.attention import SDPBackend, sdpa_kernel

class Attention(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.qkv, self.attend = nn.Linear(256, 768), attend
    def forward(self, x):
        q, k, v = self.qkv(x).view(2, 512, 3, 8, 32).permute(2, 0, 3, 1, 4)
        return self.attend(q, k, v)

def of_torch(backend):
    def attend(q, k, v):
        with sdpa_kernel(backend): return functional.scaled_dot_product_attention(q, k, v)
    return attend

def by_hand(q, k, v): return torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v

def train(attend, autocast):
    model, x = Attention(attend).cuda(), torch.randn(2, 512, 256).cuda()
    for _ in range(6):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast): loss = model(x).square().mean()
        loss.backward()
        model.zero_grad()

print(json.dumps([
    findings(lambda: train(of_torch(SDPBackend.MATH), False)),
    findings(lambda: train(by_hand, True)),
    findings(lambda: train(of_torch(SDPBackend.FLASH_ATTENTION), True)),
]))
"""
    )
    scores = 2 * 8 * 512 * 512 * 4
    assert scores <= unfused["VP105"] < 3 * scores
    assert by_hand["VP105"] >= scores // 2
    assert unfused["VP106"] >= scores
    assert "VP105" not in fused
    assert "VP106" not in fused
