"""What a running program holds by name, as `vramprof live` is told it."""

from __future__ import annotations

from programs import told_by

TRAIN = """
import json, sys, time
from pathlib import Path
import torch, vramprof
from vramprof.recording.feed import FeedReader

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__import__("tempfile").mkdtemp()) / "r.vram"
model = torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.BatchNorm1d(256)).cuda()
model[0].other_name = model[0].weight  # counted once
optimizer = torch.optim.AdamW(model.parameters())
reader, rows = FeedReader(folder), []
with vramprof.profile(out=folder, mode=MODE):
    for step in range(4):
        model(torch.zeros(64, 256, device="cuda")).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        time.sleep(1.1)
        rows += reader.read()
reader.close()
weights = sum(parameter.nbytes for parameter in model.parameters())
print(json.dumps([weights, sum(b.nbytes for b in model.buffers() if b.is_cuda), [row._asdict() for row in rows]]))
"""


def test_the_four_that_have_names() -> None:
    for mode in ("trace", "monitor"):
        weights, buffers, rows = told_by(f"MODE = {mode!r}\n{TRAIN}")
        forward, backward, step = ([r for r in rows if r["moment"] == m] for m in ("forward", "backward", "optimizer"))
        assert {r["weights_bytes"] for r in forward[1:] + backward + step} == {weights}
        assert forward[-1]["buffers_bytes"] == buffers
        assert forward[-1]["gradients_bytes"] == 0
        assert backward[-1]["gradients_bytes"] == weights
        assert forward[-1]["optimizer_bytes"] == 2 * weights
        assert all(r["allocated_bytes"] >= r["weights_bytes"] + r["gradients_bytes"] for r in backward)
        assert len([r for r in rows if r["moment"] == "sample"]) >= 3
        assert [r["step"] for r in rows if r["moment"] == "step"][:2] == [0, 1]
