"""What each rank of a torchrun job runs: `smoke.rank ddp|fsdp2 FOLDER`; it knows of no emulated device."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from smoke import models


def main(kind: str, folder: str) -> None:
    rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(rank)
    distributed.init_process_group("nccl")
    model, ids = models.Transformer().cuda(), models.tokens()
    if kind == "fsdp2":
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
    wrapped = DistributedDataParallel(model, device_ids=[rank]) if kind == "ddp" else model
    for _ in models.train(lambda: models.next_token_loss(wrapped, ids), model):
        distributed.barrier()
    peaks = [torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(peaks))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
