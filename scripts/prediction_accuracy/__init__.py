"""Peaks that others measured on real GPUs, beside what a dry run on the emulated card says."""
