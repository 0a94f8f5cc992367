"""Several processes, and several cards in one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from smoke.registry import Peaks, program


def load(**options: Any) -> Iterator[None]:
    import torch

    from smoke import models

    rows = torch.utils.data.TensorDataset(torch.randn(64, 1024))
    model = models.mlp(depth=2)
    optimizer = torch.optim.AdamW(model.parameters())
    for (batch,) in torch.utils.data.DataLoader(rows, batch_size=16, num_workers=2, pin_memory=True, **options):
        model(batch.cuda(non_blocking=True)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


@program(subject="DataLoader workers")
def forked_workers() -> Iterator[None]:
    yield from load()


@program(subject="DataLoader workers")
def spawned_workers() -> Iterator[None]:
    yield from load(multiprocessing_context="spawn", persistent_workers=True, prefetch_factor=2)


def train_in_child(rank: int, answers: Any) -> None:
    import torch

    from smoke import models

    torch.cuda.set_device(rank)
    model = models.mlp(depth=2)
    x = torch.randn(16, 1024, device="cuda")
    for _ in models.train(lambda: model(x).square().mean(), model):
        pass
    answers.put((torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()))


@program(subject="torch.multiprocessing", devices=2)
def spawned_processes() -> Iterator[Peaks]:
    """Two fresh interpreters, each with a card."""
    import torch.multiprocessing as mp

    answers = mp.get_context("spawn").SimpleQueue()
    mp.spawn(train_in_child, args=(answers,), nprocs=2)
    told = [answers.get() for _ in range(2)]
    yield Peaks(*(max(peaks) for peaks in zip(*told, strict=True)))


def look_at_tensor(tensors: Any, answers: Any) -> None:
    tensor = tensors.get()
    answers.put((tuple(tensor.shape), tensor.device.type, float(tensor.sum())))
    del tensor


@program(subject="torch.multiprocessing")
def tensors_through_queues() -> Iterator[None]:
    """Device memory of one process, opened by another."""
    import torch
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    tensors, answers = context.Queue(), context.Queue()
    child = context.Process(target=look_at_tensor, args=(tensors, answers))
    child.start()
    tensor = torch.ones(1 << 20, device="cuda")
    tensors.put(tensor)
    shape, device, _ = answers.get(timeout=120)
    assert (shape, device) == ((1 << 20,), "cuda")
    child.join(60)
    assert child.exitcode == 0, child.exitcode
    yield


@program(subject="several cards", devices=8)
def eight_devices() -> Iterator[None]:
    """Peer copies round the ring, and a tensor on each."""
    import torch
    from torch.nn.parallel import comm

    assert torch.cuda.device_count() == 8
    assert torch.cuda.can_device_access_peer(0, 7)
    for _ in range(2):
        x = torch.randn(1 << 24, device="cuda:0")
        for device in range(1, 8):
            x = x.to(f"cuda:{device}", non_blocking=True) + 1
        x.to("cuda:0")
        yield
    comm.broadcast(x.to("cuda:0"), devices=list(range(8)))
    yield


@program(subject="several cards", devices=4)
def data_parallel() -> Iterator[None]:
    import torch

    from smoke import models

    model = models.mlp()
    parallel = torch.nn.DataParallel(model)
    x = torch.randn(256, 1024, device="cuda")
    yield from models.train(lambda: parallel(x).square().mean(), model)


@program(subject="several cards", devices=2)
def layers_on_two_devices() -> Iterator[None]:
    """A model split by hand."""
    import torch

    from smoke import models

    first, second = models.mlp(depth=2), models.mlp(depth=2).to("cuda:1")
    both = torch.nn.ModuleList([first, second])
    x = torch.randn(256, 1024, device="cuda")
    yield from models.train(lambda: second(first(x).to("cuda:1")).square().mean(), both)
