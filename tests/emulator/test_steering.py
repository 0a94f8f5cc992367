"""Values that a dry run knows without kernels, so that programs which wait for them come to their end."""

from __future__ import annotations

import pytest

from programs import run_program, told_by

GENERATE = """
import json, torch
from transformers import LlamaConfig, LlamaForCausalLM
config = LlamaConfig(
    vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, eos_token_id=2, pad_token_id=0,
)
model = LlamaForCausalLM(config).cuda().eval()
tokens = torch.ones(2, 8, dtype=torch.long).cuda()
calls = []
model.register_forward_hook(lambda *_: calls.append(1))
told = []
for beams in (1, 3):
    model.generate(tokens, max_new_tokens=12, num_beams=beams, do_sample=False)
    told.append(len(calls))
    calls.clear()
print(json.dumps(told))
"""


def test_generation_goes_to_its_full_length() -> None:
    pytest.importorskip("transformers")
    assert told_by(GENERATE) == [12, 12]


def test_waiting_for_a_value_that_never_comes_is_told_once() -> None:
    result = run_program(
        """
import torch
from vramprof.emulator import guesses
guesses._WAITING_READS = 20
flag = torch.zeros(1, device="cuda")
for _ in range(60):
    flag.sum().item()
"""
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("it waits forever") == 1
    assert "<string>:8 has read 20 values" in result.stderr
