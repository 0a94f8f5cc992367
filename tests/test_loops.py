"""Loops that are not written out: transformers' Trainer, whose optimizer is wrapped in another; generators; errors."""

from __future__ import annotations

import importlib.util

import pytest

from programs import told_by

LOOP = """
import json, torch, vramprof
from torch import nn

def told(prof):
    device = prof.report().facts.devices[0]
    reasons = [reason for reason in prof.recording.gaps.reason if "marking" in reason]
    return [len(device.steps), device.peak.by_category["unattributed"], reasons]
"""


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed")
def test_transformers_trainer() -> None:
    steps, unattributed, reasons = told_by(
        LOOP
        + """
import contextlib, sys, tempfile
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=64, n_head=2, vocab_size=500, n_positions=64))
ids = torch.zeros(64, dtype=torch.long)
args = TrainingArguments(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=4, max_steps=3, report_to=[],
    save_strategy="no", disable_tqdm=True, logging_strategy="no")
with vramprof.profile() as prof, contextlib.redirect_stdout(sys.stderr):
    Trainer(model=model, args=args, train_dataset=[{"input_ids": ids, "labels": ids}] * 16).train()
print(json.dumps(told(prof)))
"""
    )
    assert steps == 3
    assert unattributed == 0
    assert reasons == []


def test_a_generator_and_errors_in_forward_and_backward() -> None:
    generator, errors = told_by(
        LOOP
        + """
class Fails(nn.Module):
    def forward(self, x): raise ValueError("in forward")

def fails(gradient): raise KeyError("in backward")

net, x = nn.Sequential(nn.Linear(256, 256), nn.ReLU()).cuda(), torch.randn(512, 256).cuda()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

def train(index, errors):
    try:
        if errors and index == 2: nn.Sequential(net, Fails())(x)
        y = net(x)
        if errors and index == 1: y.register_hook(fails)
        y.sum().backward()
    except (ValueError, KeyError): pass
    optimizer.step()
    optimizer.zero_grad()
    return index

with vramprof.profile() as first: list(train(index, False) for index in range(4))
with vramprof.profile() as second: list(train(index, True) for index in range(4))
print(json.dumps([told(first), told(second)]))
"""
    )
    assert generator == [4, 0, []]
    assert errors == [4, 0, []]
