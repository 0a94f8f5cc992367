"""One rank of many, the others imagined by torch's own fake process group."""

from __future__ import annotations

from collections.abc import Iterator

from smoke.registry import program


def one_of(world_size: int, *, rank: int = 0) -> None:
    import torch
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.cuda.set_device(0)
    distributed.init_process_group("fake", rank=rank, world_size=world_size, store=FakeStore())


@program(subject="distributed", core=True)
def fsdp2() -> Iterator[None]:
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    from smoke import models

    one_of(8, rank=3)
    model, ids = models.Transformer().cuda(), models.tokens()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    yield from models.train(lambda: models.next_token_loss(model, ids), model)
    distributed.destroy_process_group()


@program(subject="distributed", core=True)
def ddp() -> Iterator[None]:
    """The fake group's futures hold nothing, which DDP's built-in reduction refuses: a hook does as that does."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from smoke import models

    one_of(4)
    model, ids = models.Transformer().cuda(), models.tokens()

    def reduce(state, bucket):  # torch reads annotations, and wants classes there, not text
        buffer = bucket.buffer().div_(4)
        distributed.all_reduce(buffer)
        done = torch.futures.Future()
        done.set_result(buffer)
        return done

    parallel = DistributedDataParallel(model, device_ids=[0])
    parallel.register_comm_hook(None, reduce)
    yield from models.train(lambda: models.next_token_loss(parallel, ids), model)
    distributed.destroy_process_group()
