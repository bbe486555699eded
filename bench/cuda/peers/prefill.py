"""Prefill attention of cuDNN and FlashAttention 2 through PyTorch, and of FlashAttention 3 if `vllm_flash_attn` can be
imported: the rates beside `bench prefill`, on dense keys of one length (they take no row of its own length per head).

    python3 bench/cuda/peers/prefill.py
"""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

HEADS, KV_HEADS, DIM = 32, 8, 128


def rate(flops, run):
    for _ in range(3):
        run()
    times = []
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return flops / sorted(times)[5] / 1e9


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def pairs(chunk, history):
    return chunk * history + chunk * (chunk + 1) / 2


n = 8192
a, b = random(n, n), random(n, n)
print(f"8192^3 product {rate(2 * n**3, lambda: a @ b):.0f} TFLOP/s")
for chunk, history in ((8192, 0), (8192, 8192), (2048, 8192), (256, 8192)):
    flops = 4 * DIM * HEADS * pairs(chunk, history)
    q, k, v = random(1, HEADS, chunk, DIM), *(random(1, KV_HEADS, history + chunk, DIM) for _ in "kv")
    for name, backend in (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("FlashAttention 2", SDPBackend.FLASH_ATTENTION)):
        try:
            with sdpa_kernel(backend):
                if history == 0:
                    got = rate(flops, lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True))
                    what = "causal"
                else:  # no causal mask aligned to the end here: all keys for all queries, counted as such
                    full = 4 * DIM * HEADS * chunk * (chunk + history)
                    got = rate(full, lambda: sdpa(q, k, v, enable_gqa=True))
                    what = "no mask"
            print(f"c={chunk} history {history}: {name} ({what}) {got:.0f} TFLOP/s")
        except RuntimeError as error:
            print(f"c={chunk} history {history}: {name}: {str(error).splitlines()[0]}")
    try:
        from vllm_flash_attn import flash_attn_varlen_func
    except ImportError:
        continue
    q3, k3, v3 = (t[0].transpose(0, 1).contiguous() for t in (q, k, v))
    ends = lambda length: torch.tensor([0, length], device="cuda", dtype=torch.int32)
    run = lambda: flash_attn_varlen_func(
        q3, k3, v3, max_seqlen_q=chunk, cu_seqlens_q=ends_q, max_seqlen_k=chunk + history, cu_seqlens_k=ends_k,
        causal=True, fa_version=3)
    ends_q, ends_k = ends(chunk), ends(chunk + history)
    print(f"c={chunk} history {history}: FlashAttention 3 (causal) {rate(flops, run):.0f} TFLOP/s")
