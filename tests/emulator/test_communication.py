from __future__ import annotations

from programs import told_by


def test_other_ranks_are_taken_to_send_the_same() -> None:
    told = told_by(
        """
import json, torch
from torch import distributed
distributed.init_process_group("nccl", rank=0, world_size=3, store=distributed.HashStore())
sent = torch.tensor([7, 8]).cuda()
whole = torch.empty(6, dtype=torch.long, device="cuda")
distributed.all_gather_into_tensor(whole, sent)
pieces = [torch.empty(2, dtype=torch.long, device="cuda") for _ in range(3)]
distributed.all_gather(pieces, sent)
total = torch.arange(4.0).cuda()
distributed.all_reduce(total)
largest = torch.arange(4).cuda()
distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
part = torch.empty(2, device="cuda")
distributed.reduce_scatter_tensor(part, torch.arange(6.0).cuda())
swapped = torch.empty(3, dtype=torch.long, device="cuda")
distributed.all_to_all_single(swapped, torch.tensor([4, 5, 6]).cuda())
heard = torch.tensor([1, 2, 3]).cuda()
distributed.broadcast(heard, src=0)
print(json.dumps([x.tolist() for x in (whole, *pieces, total, largest, part, swapped, heard)]))
"""
    )
    assert told[0] == [7, 8] * 3
    assert told[1:4] == [[7, 8]] * 3
    assert told[4:] == [[0, 3, 6, 9], [0, 1, 2, 3], [0, 3], [4, 4, 4], [1, 2, 3]]


def test_what_one_other_rank_sends_reads_as_zeros() -> None:
    told = told_by(
        """
import json, torch
from torch import distributed
distributed.init_process_group("nccl", rank=0, world_size=3, store=distributed.HashStore())
heard = torch.tensor([1, 2, 3]).cuda()
distributed.recv(heard, src=1)
print(json.dumps(heard.tolist()))
"""
    )
    assert told == [0, 0, 0]
