"""Nets that look at pictures: torchvision's and timm's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from smoke.registry import program

if TYPE_CHECKING:
    import torch

TORCHVISION = ("torchvision",)
TIMM = ("timm",)


def train_classifier(model: torch.nn.Module, *, side: int = 224, batch: int = 8, amp: bool = False) -> Iterator[None]:
    import torch
    from torch.nn import functional

    from smoke import models

    model = model.cuda().to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, side, side, device="cuda").contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long, device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def loss() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            return functional.cross_entropy(model(images), labels)

    yield from models.train(loss, model, optimizer=optimizer)


def train_detector(model: torch.nn.Module, **more: torch.Tensor) -> Iterator[None]:
    """Two pictures with two boxes each, which the host knows."""
    import torch

    from smoke import models

    model = model.cuda()
    images = [torch.rand(3, 320, 320, device="cuda") for _ in range(2)]
    boxes = torch.tensor([[20.0, 20.0, 120.0, 140.0], [60.0, 80.0, 300.0, 310.0]]).cuda()
    target = {"boxes": boxes, "labels": torch.tensor([1, 2]).cuda(), **more}
    yield from models.train(lambda: sum(model(images, [target, target]).values()), model)


@program(subject="torchvision classification", needs=TORCHVISION)
def resnet50() -> Iterator[None]:
    from torchvision import models

    yield from train_classifier(models.resnet50(), batch=16)


@program(subject="torchvision classification", needs=TORCHVISION)
def mobilenet_v3() -> Iterator[None]:
    from torchvision import models

    yield from train_classifier(models.mobilenet_v3_large(), batch=16, amp=True)


@program(subject="torchvision classification", needs=TORCHVISION)
def vit_b_16() -> Iterator[None]:
    from torchvision import models

    yield from train_classifier(models.vit_b_16())


@program(subject="torchvision classification", needs=TORCHVISION)
def swin_t() -> Iterator[None]:
    from torchvision import models

    yield from train_classifier(models.swin_t(), amp=True)


@program(subject="torchvision classification", needs=TORCHVISION)
def video_r3d() -> Iterator[None]:
    import torch
    from torchvision.models import video

    from smoke import models

    model = video.r3d_18().cuda()
    clip = torch.randn(2, 3, 16, 112, 112, device="cuda")
    yield from models.train(lambda: model(clip).square().mean(), model)


@program(subject="torchvision inference", needs=TORCHVISION)
def resnet50_serving() -> Iterator[None]:
    """Half precision, batches of other sizes one after another."""
    import torch
    from torchvision import models

    model = models.resnet50().half().eval().cuda()
    with torch.inference_mode():
        for batch in (1, 32, 8):
            model(torch.randn(batch, 3, 224, 224, dtype=torch.half, device="cuda")).argmax(-1).cpu()
            yield


@program(subject="torchvision detection", needs=TORCHVISION)
def faster_rcnn() -> Iterator[None]:
    from torchvision.models import detection

    yield from train_detector(detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None))


@program(subject="torchvision detection", needs=TORCHVISION)
def mask_rcnn() -> Iterator[None]:
    import torch
    from torchvision.models import detection

    masks = torch.zeros(2, 320, 320, dtype=torch.uint8).cuda()
    yield from train_detector(detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None), masks=masks)


@program(subject="torchvision detection", needs=TORCHVISION)
def retinanet() -> Iterator[None]:
    from torchvision.models import detection

    yield from train_detector(detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None))


@program(subject="torchvision detection", needs=TORCHVISION)
def ssd_serving() -> Iterator[None]:
    """How many boxes pass the threshold is a guess, and may come out absurdly large."""
    import torch
    from torchvision.models import detection

    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).eval().cuda()
    with torch.inference_mode():
        for _ in range(2):
            model([torch.rand(3, 320, 320, device="cuda")])
            yield


def train_segmenter(model: torch.nn.Module) -> Iterator[None]:
    import torch
    from torch.nn import functional

    from smoke import models

    model = model.cuda()
    images = torch.randn(2, 3, 256, 256, device="cuda")
    labels = torch.zeros(2, 256, 256, dtype=torch.long, device="cuda")
    yield from models.train(lambda: functional.cross_entropy(model(images)["out"], labels), model)


@program(subject="torchvision segmentation", needs=TORCHVISION)
def deeplab_v3() -> Iterator[None]:
    from torchvision.models import segmentation

    yield from train_segmenter(segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None))


@program(subject="torchvision segmentation", needs=TORCHVISION)
def lraspp() -> Iterator[None]:
    from torchvision.models import segmentation

    yield from train_segmenter(segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None))


def timm_model(name: str) -> Any:
    import timm

    return timm.create_model(name, pretrained=False)


@program(subject="timm CNN", needs=TIMM)
def convnext() -> Iterator[None]:
    yield from train_classifier(timm_model("convnext_tiny"), amp=True)


@program(subject="timm CNN", needs=TIMM)
def efficientnet() -> Iterator[None]:
    yield from train_classifier(timm_model("efficientnet_b0"))


@program(subject="timm ViT", needs=TIMM)
def timm_vit() -> Iterator[None]:
    yield from train_classifier(timm_model("vit_small_patch16_224"), amp=True)


@program(subject="timm hybrid", needs=TIMM)
def coatnet() -> Iterator[None]:
    yield from train_classifier(timm_model("coatnet_nano_rw_224"), amp=True)


@program(subject="timm hybrid", needs=TIMM)
def resnet_vit_hybrid() -> Iterator[None]:
    yield from train_classifier(timm_model("vit_small_r26_s32_224"))
