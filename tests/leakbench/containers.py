"""Leaks that plain Python containers, caches, hooks and attributes keep alive."""

from __future__ import annotations

import collections
import copy
import functools
import itertools
import queue
from collections.abc import Iterator
from typing import Any, ClassVar

from leakbench.registry import block, leak

BATCH, WIDTH = 64, 1024
ACTIVATION = block(BATCH, WIDTH)
WEIGHT = block(WIDTH, WIDTH)
LOG: list[Any] = []
MASKS: dict[int, Any] = {}


@leak(grows=ACTIVATION, holder="outputs")
def outputs_of_a_prediction_loop() -> Iterator[None]:
    """https://github.com/Lightning-AI/pytorch-lightning/issues/8453"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH).cuda()
    outputs = []
    with torch.no_grad():
        while True:
            outputs.append(model(torch.randn(BATCH, WIDTH, device="cuda")))  # leaks
            yield


@leak(grows=2 * ACTIVATION, holder="step_outputs")
def validation_step_outputs() -> Iterator[None]:
    """https://github.com/Lightning-AI/pytorch-lightning/issues/8583"""
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(WIDTH, WIDTH)
            self.step_outputs: list[dict[str, Any]] = []

        def validation_step(self, batch: torch.Tensor) -> None:
            self.step_outputs.append({"preds": self.layer(batch), "target": batch * 2})  # leaks

    module = Module().cuda()
    with torch.no_grad():
        while True:
            module.validation_step(torch.randn(BATCH, WIDTH, device="cuda"))
            yield


@leak(grows=ACTIVATION, holder="activations")
def activations_from_a_forward_hook() -> Iterator[None]:
    """https://github.com/jacobgil/pytorch-grad-cam/issues/71"""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()).cuda()
    activations = []
    model[0].register_forward_hook(lambda module, args, output: activations.append(output.detach()))  # leaks
    while True:
        model(torch.randn(BATCH, WIDTH, device="cuda")).mean().backward()  # leaks
        yield


@leak(grows=ACTIVATION, holder="hook")
def a_hook_more_each_step() -> Iterator[None]:
    """https://github.com/utkuozbulak/pytorch-cnn-visualizations/issues/53"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH).cuda()

    def watch(scale: torch.Tensor) -> None:
        model.register_forward_hook(lambda module, args, output: output * scale)  # leaks

    while True:
        watch(torch.rand(BATCH, WIDTH, device="cuda"))  # leaks
        with torch.no_grad():
            model(torch.randn(BATCH, WIDTH, device="cuda"))
        yield


@leak(grows=block(WIDTH, WIDTH), holder="hook")
def a_gradient_hook_more_each_step() -> Iterator[None]:
    """https://github.com/f-dangel/backpack/issues/258"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH, bias=False).cuda()

    def masked(gradient: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return gradient * mask

    while True:
        mask = (torch.rand(WIDTH, WIDTH, device="cuda") > 0.5).float()  # leaks
        model.weight.register_hook(functools.partial(masked, mask=mask))  # leaks
        model(torch.randn(BATCH, WIDTH, device="cuda")).mean().backward()
        yield


@leak(grows=512, holder="losses")
def losses_by_key() -> Iterator[None]:
    """https://github.com/jokester-zzz/SSA-SC/issues/2"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH).cuda()
    losses = collections.defaultdict(dict)
    for step in itertools.count():
        loss = model(torch.randn(BATCH, WIDTH, device="cuda")).mean()  # leaks
        loss.backward()
        losses["train"][step] = loss.detach()  # leaks
        yield


@leak(grows=ACTIVATION + block(BATCH, item_bytes=8), holder=("preds", "target"))
def metric_that_keeps_lists() -> Iterator[None]:
    """https://github.com/Lightning-AI/torchmetrics/issues/3294"""
    import torch

    class AveragePrecision(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.preds: list[torch.Tensor] = []
            self.target: list[torch.Tensor] = []

        def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
            self.preds.append(preds.softmax(-1))  # leaks
            self.target.append(target.long())  # leaks

    metric = AveragePrecision()
    while True:
        metric.update(torch.randn(BATCH, WIDTH, device="cuda"), torch.zeros(BATCH, device="cuda"))
        yield


@leak(grows=ACTIVATION, holder="preds")
def predictions_concatenated_on_the_gpu() -> Iterator[None]:
    """https://github.com/huggingface/transformers/issues/7158"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH).cuda()
    preds = None
    with torch.no_grad():
        while True:
            logits = model(torch.randn(BATCH, WIDTH, device="cuda"))
            preds = logits if preds is None else torch.cat([preds, logits])  # leaks
            yield


@leak(grows=ACTIVATION, holder="preds", steps=36)
def predictions_of_every_third_step() -> Iterator[None]:
    """https://github.com/huggingface/transformers/issues/7232"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    preds = []
    for step in itertools.count():
        model(torch.randn(BATCH, WIDTH, device="cuda")).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 3 == 2:
            with torch.no_grad():
                for _ in range(3):
                    preds.append(model(torch.randn(BATCH, WIDTH, device="cuda")))  # leaks
        yield


@leak(grows=2 * ACTIVATION, holder="memory")
def replay_buffer_without_an_end() -> Iterator[None]:
    """https://github.com/recursionpharma/gflownet/pull/130"""
    import torch

    memory = collections.deque()
    state = torch.randn(BATCH, WIDTH, device="cuda")
    policy = torch.nn.Linear(WIDTH, WIDTH).cuda()
    while True:
        with torch.no_grad():
            action = policy(state)  # leaks
            following = state + action  # leaks
        memory.append((state, action, following))  # leaks
        state = following
        yield


@functools.cache
def _mask(length: int) -> Any:
    import torch

    return torch.full((length, length), float("-inf"), device="cuda").triu(1)  # leaks


@leak(grows=block(278, 278), holder="_mask")
def masks_by_length_in_an_lru_cache() -> Iterator[None]:
    """https://github.com/MoonshotAI/Kimi-Audio/issues/117"""
    for length in itertools.count(256, 4):
        _mask(length)
        yield


@leak(grows=block(261, 261), holder="MASKS")
def masks_by_length_in_a_global() -> Iterator[None]:
    """https://github.com/CanReader/FastNN/issues/16"""
    import torch

    for length in itertools.count(256):
        if length not in MASKS:
            MASKS[length] = torch.ones(length, length, device="cuda")  # leaks
        yield


@leak(grows=ACTIVATION, holder="encode")
def instances_held_by_a_cached_method() -> Iterator[None]:
    """https://github.com/huggingface/transformers/pull/45708"""
    import torch

    class Encoder:
        def __init__(self) -> None:
            self.table = torch.randn(BATCH, WIDTH, device="cuda")  # leaks

        @functools.cache  # noqa: B019 -- the leak itself
        def encode(self, key: int) -> int:
            return key * 2

    while True:
        Encoder().encode(3)
        yield


@leak(grows=2 * ACTIVATION, holder="cycle")
def cycle_over_a_loader() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/23900"""
    import torch

    def loader() -> Iterator[torch.Tensor]:
        while True:
            yield torch.randn(BATCH, 2 * WIDTH, device="cuda")  # leaks

    model = torch.nn.Linear(2 * WIDTH, 16).cuda()
    for batch in itertools.cycle(loader()):  # leaks
        model(batch).mean().backward()
        yield


@leak(grows=ACTIVATION, holder="tee")
def a_tee_that_nobody_follows() -> Iterator[None]:
    """https://github.com/kipoi/kipoi/pull/277"""
    import torch

    def loader() -> Iterator[torch.Tensor]:
        while True:
            yield torch.randn(BATCH, WIDTH, device="cuda")  # leaks

    train, _again = itertools.tee(loader())  # leaks
    model = torch.nn.Linear(WIDTH, 16).cuda()
    for batch in train:
        model(batch).mean().backward()
        yield


@leak(grows=block(WIDTH, WIDTH), holder="checkpoints")
def state_dicts_copied_each_epoch() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/34765"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH, bias=False).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    checkpoints = {}
    for epoch in itertools.count():
        model(torch.randn(BATCH, WIDTH, device="cuda")).mean().backward()
        optimizer.step()
        checkpoints[epoch] = copy.deepcopy(model.state_dict())  # leaks
        yield


@leak(grows=block(WIDTH, WIDTH), holder="trials")
def models_of_finished_trials() -> Iterator[None]:
    """https://github.com/jmschrei/tangermeme/pull/84"""
    import torch

    trials = []
    while True:
        model = torch.nn.Linear(WIDTH, WIDTH, bias=False, device="cuda")  # leaks
        with torch.no_grad():
            score = model(torch.randn(BATCH, WIDTH, device="cuda")).mean().item()
        trials.append((score, model))  # leaks
        yield


@leak(grows=2 * block(WIDTH, WIDTH), holder="optimizers")
def optimizers_built_anew() -> Iterator[None]:
    """https://github.com/deepspeedai/DeepSpeed/issues/6729"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH, bias=False).cuda()
    optimizers = []
    while True:
        optimizers.append(torch.optim.Adam(model.parameters()))  # leaks
        model(torch.randn(BATCH, WIDTH, device="cuda")).mean().backward()
        optimizers[-1].step()  # leaks
        optimizers[-1].zero_grad()
        yield


@leak(grows=ACTIVATION, holder="input_")
def inputs_as_attributes_of_a_module() -> Iterator[None]:
    """https://github.com/chr5tphr/zennit/issues/11"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH).cuda()
    for step in itertools.count():
        x = torch.randn(BATCH, WIDTH, device="cuda")  # leaks
        setattr(model, f"input_{step}", x)  # leaks
        model(x).mean().backward()
        yield


@leak(grows=512, holder="LOG")
def metrics_logged_to_a_global() -> Iterator[None]:
    """https://github.com/Lightning-AI/pytorch-lightning/issues/4556"""
    import torch

    model = torch.nn.Linear(WIDTH, WIDTH).cuda()
    while True:
        loss = model(torch.randn(BATCH, WIDTH, device="cuda")).mean()  # leaks
        loss.backward()
        LOG.append({"loss": loss.detach()})  # leaks
        yield


@leak(grows=ACTIVATION, holder="instances")
def instances_in_a_class_attribute() -> Iterator[None]:
    """https://github.com/Lightning-AI/torchmetrics/issues/1949"""
    import torch

    class Metric:
        instances: ClassVar[list[Any]] = []

        def __init__(self) -> None:
            self.state = torch.zeros(BATCH, WIDTH, device="cuda")  # leaks
            Metric.instances.append(self)  # leaks

    while True:
        Metric().state += 1
        yield


@leak(grows=block(64, 197, 64), holder="features")
def class_tokens_that_are_views() -> Iterator[None]:
    """https://github.com/ViCCo-Group/thingsvision/pull/150"""
    import torch

    model = torch.nn.Linear(64, 64).cuda()
    features = []
    with torch.no_grad():
        while True:
            tokens = model(torch.randn(64, 197, 64, device="cuda"))  # leaks
            features.append(tokens[:, 0])  # leaks
            yield


@leak(grows=ACTIVATION, holder="results")
def a_queue_that_nobody_reads() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/issues/27975"""
    import torch

    results: queue.Queue[Any] = queue.Queue()
    model = torch.nn.Linear(WIDTH, WIDTH).cuda()
    with torch.no_grad():
        while True:
            results.put(model(torch.randn(BATCH, WIDTH, device="cuda")))  # leaks
            yield


@leak(grows=ACTIVATION, holder="iterators")
def iterators_that_are_never_finished() -> Iterator[None]:
    """https://github.com/facebookresearch/detectron2/issues/3847"""
    import torch

    def loader() -> Iterator[torch.Tensor]:
        ahead = torch.randn(BATCH, WIDTH, device="cuda")  # leaks
        while True:
            yield ahead * 2

    iterators = []
    while True:
        iterators.append(loader())  # leaks
        next(iterators[-1])
        yield


@leak(grows=block(WIDTH, WIDTH), holder="COMPILED")
def functions_cached_by_shape() -> Iterator[None]:
    """https://github.com/pytorch/pytorch/pull/147233"""
    import torch

    for length in itertools.count(1):
        key = ("matmul", length)
        if key not in COMPILED:
            COMPILED[key] = _specialise(torch.randn(WIDTH, WIDTH, device="cuda"))  # leaks
        COMPILED[key](torch.ones(length, WIDTH, device="cuda"))
        yield


COMPILED: dict[Any, Any] = {}


def _specialise(constant: Any) -> Any:
    return lambda x: x @ constant
