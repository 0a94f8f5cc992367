"""One rank of many, the others imagined by torch's own fake process group; and real ranks, with NCCL."""

from __future__ import annotations

from collections.abc import Iterator

from smoke.registry import Peaks, program


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


@program(subject="distributed")
def ddp_nccl() -> Iterator[None]:
    """Rank 0 of 4 in one process: the NCCL of the emulated device takes the other ranks to do as this one does."""
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    from smoke import models

    distributed.init_process_group("nccl", rank=0, world_size=4, store=distributed.HashStore())
    model, ids = models.Transformer().cuda(), models.tokens()
    parallel = DistributedDataParallel(model, device_ids=[0])
    yield from models.train(lambda: models.next_token_loss(parallel, ids), model)
    torch.cuda.synchronize()


@program(subject="distributed")
def fsdp1() -> Iterator[None]:
    import functools

    from torch import distributed
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    from smoke import models

    one_of(8, rank=1)
    policy = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={models.Block})
    model = FullyShardedDataParallel(
        models.Transformer().cuda(), auto_wrap_policy=policy, use_orig_params=True, device_id=0
    )
    ids = models.tokens()
    yield from models.train(lambda: models.next_token_loss(model, ids), model)
    distributed.destroy_process_group()


@program(subject="distributed")
def fsdp2_mixed_offload() -> Iterator[None]:
    """Parameters in bfloat16 when gathered, and in host memory when not."""
    import torch
    from torch import distributed
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

    from smoke import models

    one_of(8)
    policies = {
        "mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
        "offload_policy": CPUOffloadPolicy(),
    }
    model, ids = models.Transformer(), models.tokens()
    for block in model.blocks:
        fully_shard(block, **policies)
    fully_shard(model, **policies)
    yield from models.train(lambda: models.next_token_loss(model, ids), model)
    distributed.destroy_process_group()


@program(subject="distributed")
def hybrid_shard() -> Iterator[None]:
    """FSDP2 over a mesh of two dimensions: copies of shards."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from smoke import models

    one_of(8, rank=5)
    mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("replicate", "shard"))
    model, ids = models.Transformer().cuda(), models.tokens()
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    yield from models.train(lambda: models.next_token_loss(model, ids), model)
    distributed.destroy_process_group()


@program(subject="distributed")
def tensor_parallel() -> Iterator[None]:
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    from smoke import models

    one_of(4, rank=1)
    mesh = init_device_mesh("cuda", (4,))
    model = models.mlp()
    plan = {str(i): ColwiseParallel() if i % 3 == 0 else RowwiseParallel() for i in range(len(model)) if i % 3 != 1}
    parallelize_module(model, mesh, plan)
    x = torch.randn(256, 1024, device="cuda")
    yield from models.train(lambda: model(x).square().mean(), model)
    distributed.destroy_process_group()


@program(subject="distributed")
def pipeline_parallel() -> Iterator[None]:
    """The second of four stages, one forward and one backward at a time."""
    import torch
    from torch import distributed
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    from smoke import models

    one_of(4, rank=1)
    layers = models.mlp()
    stage = PipelineStage(
        layers,
        1,
        4,
        torch.device("cuda", 0),
        input_args=(torch.randn(32, 1024, device="cuda"),),
        output_args=(torch.randn(32, 1024, device="cuda"),),
    )
    schedule = Schedule1F1B(stage, n_microbatches=8)
    optimizer = torch.optim.AdamW(layers.parameters())
    for _ in range(models.STEPS):
        schedule.step()
        optimizer.step()
        optimizer.zero_grad()
        yield
    distributed.destroy_process_group()


@program(subject="steered by values")
def objects_through_nccl() -> Iterator[None]:
    """The largest object's size is found by a kernel, which computes nothing here. A gloo group for the CPU works."""
    import torch
    from torch import distributed

    torch.cuda.set_device(0)
    distributed.init_process_group("nccl", rank=0, world_size=4, store=distributed.HashStore())
    gathered = [None] * 4
    distributed.all_gather_object(gathered, {"rank": 0})
    yield


@program(subject="distributed, real ranks", devices=2)
def torchrun_ddp() -> Iterator[Peaks]:
    """`torchrun --nproc-per-node 2` with the NCCL back end, one card for each rank."""
    yield from torchrun("ddp")


@program(subject="distributed, real ranks", devices=2)
def torchrun_fsdp2() -> Iterator[Peaks]:
    yield from torchrun("fsdp2")


def torchrun(kind: str) -> Iterator[Peaks]:
    """Each rank writes its peaks into a file of its own."""
    import json
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*command, "-m", "smoke.rank", kind, folder], check=True, timeout=240)
        told = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("*.json"))]
    assert len(told) == 2, "a rank wrote nothing"
    yield Peaks(*(max(peaks) for peaks in zip(*told, strict=True)))
