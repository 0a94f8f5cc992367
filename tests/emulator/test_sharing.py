from __future__ import annotations

from pathlib import Path

from programs import run_program


def test_a_tensor_through_a_queue_belongs_to_its_sender(tmp_path: Path) -> None:
    (tmp_path / "receiver.py").write_text(
        """
def receive(tensors, answers):
    import torch
    tensor = tensors.get()
    free, total = torch.cuda.mem_get_info()
    answers.put((list(tensor.shape), str(tensor.device), total - free, torch.cuda.memory_allocated()))
    del tensor
"""
    )
    result = run_program(
        f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
if __name__ == "__main__":
    import receiver, torch, torch.multiprocessing as mp
    context = mp.get_context("spawn")
    tensors, answers = context.SimpleQueue(), context.SimpleQueue()
    child = context.Process(target=receiver.receive, args=(tensors, answers))
    child.start()
    empty = torch.cuda.mem_get_info()[0]
    tensor = torch.ones(64 << 20, dtype=torch.uint8, device="cuda:1")
    tensors.put(tensor)
    shape, device, used, allocated = answers.get()
    child.join(60)
    assert child.exitcode == 0, child.exitcode
    assert (shape, device, allocated) == ([64 << 20], "cuda:1", 0), (shape, device, allocated)
    assert used < 1 << 30, used
    print("shared")
""",
        gpu="t4:count=2",
    )
    assert "shared" in result.stdout, result.stderr[-3000:]


def test_memory_that_is_no_segment_cannot_be_shared() -> None:
    result = run_program(
        """
import torch
torch.empty(8, device="cuda").untyped_storage()._share_cuda_()
""",
        environment={"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
    )
    assert result.returncode == 1
    assert "Error" in result.stderr
