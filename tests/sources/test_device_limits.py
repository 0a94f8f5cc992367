from __future__ import annotations

from programs import told_by

PROGRAM = """
import json, torch, vramprof
{setting}
with vramprof.profile() as prof:
    {work}
gaps = prof.recording.gaps
print(json.dumps([[r.reason, int(r.lost_count)] for r in gaps.itertuples() if r.source == "emulated device"]))
"""


def test_estimated_workspaces_are_told_by_library() -> None:
    work = 'torch.linalg.qr(torch.ones(8, 8, device="cuda")); torch.fft.fft(torch.ones(8, device="cuda"))'
    solver, fft = told_by(PROGRAM.format(setting="", work=work))
    assert "cuSOLVER" in solver[0]
    assert "cusolverDn" in solver[0]
    assert solver[1] >= 2
    assert fft == ["workspaces of cuFFT are estimates: cufftXtMakePlanMany x 1", 1]


def test_what_is_known_leaves_no_gap() -> None:
    assert (
        told_by(PROGRAM.format(setting="", work='torch.ones(8, 8, device="cuda") @ torch.ones(8, device="cuda")')) == []
    )


def test_benchmarked_convolutions_take_the_first_of_the_ranking() -> None:
    work = (
        'torch.nn.Conv2d(8, 8, 3).cuda()(torch.ones(2, 8, 32, 32, device="cuda"));'
        " peaks = torch.cuda.max_memory_allocated()"
    )
    setting = "torch.backends.cudnn.benchmark = True"
    program = PROGRAM.format(setting=setting, work=work).replace("print(json.dumps([", "print(json.dumps([peaks] + [")
    first, second = told_by(program), told_by(program)
    assert first == second
    assert first[0] > 0
    assert "first of cuDNN's own ranking" in first[1][0]
