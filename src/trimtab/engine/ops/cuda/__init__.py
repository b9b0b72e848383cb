"""The arithmetic of a step on an NVIDIA GPU: Triton kernels, and CUDA graphs of short steps."""
