"""Predict memory by closed forms, at once and without torch, and say which cards would do.

MODEL is a name (`vramprof plan --list`), a Hugging Face config.json, a number of parameters such as 20B, or dimensions:
hidden_size=4096,num_hidden_layers=32,num_attention_heads=32,vocab_size=32000

Everything printed is predicted. For a program of your own, `vramprof run --emulate GPU` goes through torch's allocator.

Example:
  vramprof plan llama-3.1-8b --gpu h100-80gb --batch 2 --seq 4096 --checkpointing full --zero 3 --dp 8
  vramprof plan deepseek-v3 --gpu h200 --inference --dtype fp8 --batch 16 --seq 8192 --tp 8
  vramprof plan 20B --gpu a100-80gb --dtype fp16 --mixed masters --optimizer adam
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from vramprof.errors import PlanError

_NUMBERS = {
    "batch": "sequences of one micro-batch on one rank (default 1)",
    "seq": "tokens of a sequence (default 2048)",
    "accumulate": "micro-batches before a step",
    "zero": "0 to 3; 3 is FSDP",
    "dp": "data ranks",
    "tp": "tensor ranks",
    "pp": "pipeline stages",
    "cp": "context ranks",
    "ep": "expert ranks",
    "lora-rank": "train adapters of this rank alone",
    "mean-seq": "average tokens of a sequence, where a server packs them in pages",
}
_WORDS = {
    "dtype": "fp32, tf32, bf16 (default), fp16; frozen or served also fp8, int8, int4, nf4",
    "mixed": "amp: autocast over fp32 weights; masters: fp32 copies of 16-bit weights",
    "optimizer": "sgd, momentum, adam, adamw (default), adamw-fused, adam8bit, adafactor, muon, lion",
    "checkpointing": "none (default), selective or full",
    "attention": "flash (default) or math",
    "schedule": "of the pipeline: gpipe, 1f1b (default) or interleaved",
    "lora-targets": "attention (default) or all",
    "torch-version": "whose workspaces (default: the installed one's)",
}
_SWITCHES = {
    "sequence-parallel": "split norms over the tensor ranks, too",
    "sparse": "2:4 sparse weights",
    "inference": "serve instead of train",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a name, a config.json, 20B, or dimensions")
    add_workload(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")
    parser.add_argument("--list", action="store_true", help="list the models that are known by name")


def add_workload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gpu", metavar="GPU", help="a card of `vramprof gpus`, or a TOML file")
    for name, about in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=about)
    for name, about in _WORDS.items():
        parser.add_argument(f"--{name}", metavar="WORD", help=about)
    for name, about in _SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", default=None, help=about)
    parser.add_argument("--no-dropout", dest="dropout", action="store_false", default=None, help="no dropout masks")
    parser.add_argument("--offload", metavar="WHAT", help="to host memory: optimizer, parameters, activations; commas")


def workload_of(arguments: argparse.Namespace) -> dict[str, Any]:
    names = [name.replace("-", "_") for name in (*_NUMBERS, *_WORDS, *_SWITCHES)] + ["dropout"]
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.offload:
        given["offload"] = tuple(arguments.offload.split(","))
    return given


def execute(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list()
    if not arguments.model or not arguments.gpu:
        raise PlanError("say which model and which card: vramprof plan MODEL --gpu GPU (--list, `vramprof gpus`)")
    from vramprof.prediction.plan import plan

    found = plan(arguments.model, gpu=arguments.gpu, **workload_of(arguments))
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        from vramprof.renderers.plan import render_plan

        sys.stdout.write(render_plan(found, color=sys.stdout.isatty()))
    return 0


def _list() -> int:
    from vramprof.prediction.architecture import find_architecture, model_names
    from vramprof.prediction.parameters import count_parameters

    for name in model_names():
        model = find_architecture(name)
        print(f"{name:<30} {count_parameters(model).total:>19,}  {model.source}")
    return 0
