"""What no formula gives. GPU figures are planning defaults until measured on one; CPU figures were measured."""

GIB = 2**30

CUDA_CONTEXT_BYTES = GIB // 2
"""Driver context, kernels and cuBLAS workspace; 0.3 to 0.6 GiB on A100 and H100."""

CPU_PROCESS_BYTES = 6 * GIB // 10
"""Resident set of Python with torch, transformers and PEFT before a model is loaded: 0.38 to 0.47 GiB seen."""
WEIGHT_FILE_BYTES = 50 * 10**9
"""transformers' max_shard_size: no weight file that it writes is larger, and safetensors copies the tensors of one file
to the host together."""
CPU_SLACK = 1.0
"""Share of a step's temporaries that glibc holds on to, fragmented, from step to step: as much again. With LoRA r=16 of
SmolLM2-135M, 8 x 128 tokens, 4.67 GiB resident after three steps, and 2.72 with MALLOC_MMAP_THRESHOLD_ fixed."""

SERVER_PROCESS_BYTES = 23 * GIB // 10
"""vLLM's processes on a CPU, without weights and KV cache: 3.5 GiB resident for SmolLM2-135M with 1 GiB of cache."""
CUDA_GRAPHS_BYTES = GIB
"""vLLM's captured graphs."""
SERVER_BATCH_TOKENS = 2048
"""vLLM's max_num_batched_tokens, which its start-up profile runs."""
SERVER_UTILIZATION = 0.92
"""vLLM's gpu_memory_utilization where the recipe does not say."""
SERVER_SEQUENCES = 256
"""vLLM's max_num_seqs, whose logits its start-up profile samples from."""

LOSS_BYTES = 12
"""Per token and vocabulary entry in the backward pass of the loss: log-softmax, its gradient and the loss's gradient,
all in float32. The trainer lets go of the logits before; a loop that keeps the model's output has 2 or 4 more."""
LOSS_FORWARD_BYTES = 10
"""The same at the end of the forward pass under autocast: 16-bit logits, float32 ones, and their log-softmax."""
LOSS_CHUNK_TOKENS = 512
"""Tokens whose logits exist at once where the loss is taken in pieces."""

NUM_CHECKPOINTS = 2
"""Checkpoints the trainer keeps."""
