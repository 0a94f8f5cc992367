"""The only rooms that touch torch, CUDA or NVML; they write to a Recorder."""
